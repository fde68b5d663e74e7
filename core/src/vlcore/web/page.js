// Pictures that are pasted or dropped anywhere go to the page's uploader; the page follows an answer that grows.
function takePictures(event, files) {
  if (!files.length) return;
  event.preventDefault();
  getElement(window.uploaderId).$refs.qRef.addFiles(files);
}
document.addEventListener("paste", (event) => takePictures(event, [...event.clipboardData.files]));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => takePictures(event, [...event.dataTransfer.files]));
function followAnswer(always) {
  const left = document.body.scrollHeight - window.innerHeight - window.scrollY;
  if (always || left < 160) window.scrollTo(0, document.body.scrollHeight);
}
