from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
import vlcore
from peft import LoraConfig, get_peft_model
from PIL import Image as PilImage
from vlcore.config import GenerateConfig
from vlcore.console import LINE, Talk, Terminal
from vlcore.dataset.read import read_rows
from vlcore.family import AskMedia
from vlcore.lora import quiet_peft
from vlcore.messages import Image, Message
from vlcore.model import VLModel
from vlcore.talk import Session
from vlcore.terminal import clean_text

DATA = Path(__file__).parents[1] / "parity" / "data"
CAT, ROCKET = str(DATA / "images" / "cat_small.png"), str(DATA / "images" / "rocket_square.png")


@pytest.fixture(scope="module")
def model() -> VLModel:
    return vlcore.load_model(DATA / "internvl" / "internvl3_5-1b-tiny" / "checkpoint", dtype="fp32")


class Played:
    """A talk played from lines, with everything that was shown."""

    def __init__(
        self, model: VLModel, lines: Iterable[str], ask: AskMedia = "tag", opening: Iterable[Image] = ()
    ) -> None:
        self.prompts: list[str] = []
        self.shown = ""
        # What was typed behind each prompt, and what was written after it.
        self.turns: list[list[str]] = []
        self.session = Session(model)
        waiting = iter(lines)

        def read(prompt: str) -> str:
            self.prompts.append(prompt)
            try:
                line = next(waiting)
            except StopIteration:
                raise EOFError from None
            self.turns.append([prompt + line, ""])
            return line

        def write(text: str) -> None:
            self.shown += text
            if self.turns:
                self.turns[-1][1] += text

        Talk(self.session, Terminal(read, write), ask, GenerateConfig(max_new_tokens=3), tuple(opening)).run()

    @property
    def transcript(self) -> str:
        """The talk as it is printed, with dots for each answer."""
        lines = []
        for typed, shown in self.turns:
            answered = shown.rstrip("\n").endswith(f"\n{LINE}")
            lines += [typed.rstrip(), f"...\n{LINE}" if answered else shown.strip()]
        return "\n".join(line for line in lines if line)

    @property
    def media(self) -> list[int]:
        return [len(message.media) for message in self.session.messages if message.role == "user"]


def test_each_tag_typed_asks_for_its_medium(model: VLModel) -> None:
    talk = Played(model, ["<image>What?", CAT, "And?", "<image><image>Compare", ROCKET, CAT, "exit"])
    ask = "Input an image path or URL <<< "
    assert talk.prompts == ["<<< ", ask, "<<< ", "<<< ", ask, ask, "<<< "]
    assert talk.media == [1, 0, 2]
    assert talk.shown.count(LINE) == 3


def test_every_turn_asks_and_an_empty_line_means_no_image(model: VLModel) -> None:
    talk = Played(model, ["What?", CAT, "Who are you?", "", "quit"], ask="turn")
    assert talk.prompts == ["<<< ", "Input a media path or URL <<< "] * 2 + ["<<< "]
    assert talk.media == [1, 0]


def test_a_conversation_asks_until_it_has_its_image_and_again_after_clear(model: VLModel) -> None:
    talk = Played(model, ["Hi", "", "What?", CAT, "More?", "clear", "Now?", ROCKET], ask="conversation")
    asked = [prompt.startswith("Input") for prompt in talk.prompts]
    assert asked == [False, True, False, True, False, False, False, True, False]
    assert talk.media == [1]


def test_images_inside_the_text_are_not_asked_for(model: VLModel) -> None:
    talk = Played(model, [f"one: <img>{CAT}</img> two: <img>{ROCKET}</img> differ how?"], ask="turn")
    assert talk.media == [2]
    assert talk.prompts == ["<<< ", "<<< "]


def test_an_unreadable_medium_is_one_line_and_the_talk_stays_as_it_was(model: VLModel) -> None:
    talk = Played(model, ["<image>What?", CAT, "<image>Again?", "/no/such.png", "And?"])
    assert talk.shown.count("[ERROR] image /no/such.png") == 1
    assert talk.media == [1, 0]


def test_multi_line_input_ends_with_a_number_sign(model: VLModel) -> None:
    talk = Played(model, ["multi-line", "one", "two#", "single-line", "three"])
    assert talk.prompts == ["<<< ", "<<<[M] ", "", "<<<[M] ", "<<< ", "<<< "]
    assert [m.text for m in talk.session.messages if m.role == "user"] == ["one\ntwo", "three"]


def test_reset_system_takes_a_new_text_and_forgets(model: VLModel) -> None:
    talk = Played(model, ["Hi", "reset-system", "You are a poet.", "Hello"])
    assert talk.prompts == ["<<< ", "<<< ", "<<<[S] ", "<<< ", "<<< "]
    assert [m.role for m in talk.session.messages] == ["system", "user", "assistant"]
    assert talk.session.messages[0].text == "You are a poet."


def test_clear_keeps_the_system_text(model: VLModel) -> None:
    talk = Played(model, ["reset-system", "You are a poet.", "Hello", "clear"])
    assert [m.role for m in talk.session.messages] == ["system"]


def test_opening_pictures_come_with_the_first_question_only(model: VLModel) -> None:
    talk = Played(model, ["What?", "And?", ""], ask="turn", opening=[Image(CAT)])
    assert talk.media == [1, 0]


#: The talks that the documents of the families print, with dots for the answers.
TALKS = {
    "Yi-VL": ("yi_vl/yi-vl-6b-tiny", "yi-vl-6b-chat", """
<<< 描述这张图片
Input a media path or URL <<< URL/cat.png
<<< 你是谁？
Input a media path or URL <<<
<<< 图中有几只羊
Input a media path or URL <<< URL/animal.png
<<< clear
<<< 计算结果是多少
Input a media path or URL <<< URL/math.png
<<< clear
<<< 根据图片中的内容写首诗
Input a media path or URL <<< URL/poem.png
<<< clear
<<< 对图片进行OCR
Input a media path or URL <<< URL/ocr.png
"""),
    "InternVL 1.5": ("internvl/internvl-chat-v1_5-tiny", "internvl-chat-v1_5", """
<<< 你是谁
Input a media path or URL <<<
<<< clear
<<< 描述这张图片
Input a media path or URL <<< URL/cat.png
<<< clear
<<< 图中有几只羊
Input a media path or URL <<< URL/animal.png
<<< clear
<<< 计算结果是多少?
Input a media path or URL <<< URL/math.png
<<< clear
<<< 根据图片中的内容写首诗
Input a media path or URL <<< URL/poem.png
<<< clear
<<< 对图片进行OCR
Input a media path or URL <<< URL/ocr.png
"""),
    "InternVL2": ("internvl/internvl2-8b-tiny", "internvl2-8b", """
<<< <image>描述图片
Input an image path or URL <<< URL/cat.png
<<< <image>描述与上一张图片的差距
Input an image path or URL <<< URL/animal.png
<<< 两张图片的共同点是什么
<<< clear
<<< <video>Describe this video.
Input a video path or URL <<< URL/baby.mp4
<<< clear
<<< image1: <img>URL/cat.png</img> image2: <img>URL/animal.png</img> What is the difference bewteen the two images?
"""),
    # The document prints the prompt of single lines before `clear`; the mode does not change there.
    "Qwen-VL": ("qwen_vl/qwen-vl-tiny", "qwen-vl-chat", """
<<< multi-line
<<<[M] 你是谁？#
<<<[M] Picture 1:<img>URL/animal.png</img>
Picture 2:<img>URL/cat.png</img>
这两张图片有什么区别#
<<<[M] Picture 1:<img>URL/animal.png</img>
图中有几只羊#
<<<[M] Picture 1:<img>URL/math.png</img>
计算结果是多少#
<<<[M] clear
<<<[M] Picture 1:<img>URL/poem.png</img>
根据图片中的内容写首诗#
"""),
    "DeepSeek-VL": ("deepseek_vl/deepseek-vl-7b-chat-tiny", "deepseek-vl-7b-chat", """
<<< 你是谁？
<<< <img>URL/animal.png</img><img>URL/cat.png</img>这两张图片有什么区别
<<< <img>URL/animal.png</img>图中有几只羊
<<< <img>URL/math.png</img>计算结果是多少
<<< <img>URL/poem.png</img>根据图片中的内容写首诗
"""),
}
PROMPT = re.compile(r"(<<<(?:\[M\])? ?|Input an? \w+ path or URL <<< ?)(.*)")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the pictures of the documents are served."""
    folder = tmp_path_factory.mktemp("served")
    for number, name in enumerate(("cat", "animal", "math", "poem", "ocr")):
        PilImage.new("RGB", (60 + number, 40), (50 * number, 90, 10)).save(folder / f"{name}.png")
    frames = [PilImage.new("RGB", (40, 30), (20 * number, 0, 0)) for number in range(9)]
    frames[0].save(folder / "baby.mp4", format="GIF", save_all=True, append_images=frames[1:])

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("name", TALKS)
def test_the_talk_of_a_document_goes_as_it_is_printed_there(name: str, address: str) -> None:
    folder, record, printed = TALKS[name]
    model = vlcore.load_model(DATA / folder / "checkpoint", dtype="fp32", model_type=record)
    lines = printed.strip().replace("URL/", f"{address}/").splitlines()
    typed = [found[2] if (found := PROMPT.match(line)) else line for line in lines]
    talk = Played(model, typed, model.checkpoint.family.ask_of(model.checkpoint.record))
    shown = [line for line in talk.transcript.splitlines() if not line.startswith("[INFO]")]
    assert [line for line in shown if line not in ("...", LINE)] == [line.rstrip() for line in lines]
    # Every question is answered; a question for a medium, and a line within a text, is not.
    questions = sum(line.startswith("<<<") and not line.endswith(("clear", "multi-line")) for line in lines)
    assert shown.count("...") == shown.count(LINE) == questions
    assert ("[INFO] End multi-line input with `#`." in talk.shown) == ("multi-line" in typed)


def test_a_talk_opened_with_pictures_asks_for_none_until_it_is_cleared(model: VLModel) -> None:
    lines = ["what is in this image", "what are they doing", "clear", "and now?", ""]
    talk = Played(model, lines, ask="turn", opening=[Image(CAT)])
    assert [prompt.startswith("Input") for prompt in talk.prompts] == [False, False, False, False, True, False]


def test_control_characters_of_an_answer_do_not_reach_the_terminal(
    model: VLModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\x1b]0;owned\x07\x1b[2J \x9b31m **bold**\r\tok\n"
    monkeypatch.setattr(model.frontend.tokenizer, "decode", lambda ids: text[: 9 * len(ids)])
    talk = Played(model, ["Hi"])
    assert not set(talk.shown) & {"\x1b", "\x07", "\x9b", "\r"}
    assert "␛]0;owned␇␛" in talk.shown
    assert "\x1b" in talk.session.messages[-1].text


def test_ctrl_c_stops_the_answer_and_the_talk_goes_on(model: VLModel, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Session.stream_message

    def interrupt(self: Session, message: Message, settings: GenerateConfig) -> Iterator[str]:
        pieces = stream(self, message, settings)
        yield next(pieces)
        pieces.close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Session, "stream_message", interrupt)
        talk = Played(model, ["Tell a story"])
    assert "[INFO] Stopped" in talk.shown and talk.session.messages == ()
    assert talk.session.send("Go on", settings=GenerateConfig(max_new_tokens=2)).usage.cached_tokens > 0


def test_ctrl_c_ends_a_talk_that_is_piped_in(model: VLModel) -> None:
    def interrupt(prompt: str) -> str:
        raise KeyboardInterrupt

    talk = Talk(Session(model), Terminal(interrupt, print, person=False), "tag", GenerateConfig())
    with pytest.raises(KeyboardInterrupt):
        talk.run()


def test_the_talk_is_saved_as_a_row_behind_the_others(
    model: VLModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(CAT, "cat.png")
    file = tmp_path / "talks.jsonl"
    file.write_text('{"query": "a", "response": "b"}', "utf8")
    lines = ["reset-system", "Be brief.", "<image>What?", "cat.png", f"<img>{address}/cat.png</img>And?",
             f"save {file}", "save talks.json", "save the whales"]
    talk = Played(model, lines)
    assert f"[INFO] The talk is row 2 of {file}." in talk.shown
    assert "[ERROR] save talks.json" in talk.shown
    assert [m.text for m in talk.session.messages if m.role == "user"][-1] == "save the whales"
    old, new = (json.loads(line) for line in file.read_text("utf8").splitlines())
    assert old == {"query": "a", "response": "b"}
    media = [part["image"] for turn in new["messages"] for part in turn["content"] if part["type"] == "image"]
    assert media == [str(tmp_path / "cat.png"), f"{address}/cat.png"]
    row = read_rows(str(file))[1]
    assert [m.role for m in row.messages] == [m.role for m in talk.session.messages[:5]]
    prompts = [model.frontend.plan(messages[:-1]) for messages in (row.messages, talk.session.messages[:5])]
    assert prompts[0].ids == prompts[1].ids


def test_nothing_is_saved_before_an_answer_or_into_what_holds_no_rows(model: VLModel, tmp_path: Path) -> None:
    other = tmp_path / "list.jsonl"
    other.write_text("[1, 2]", "utf8")
    talk = Played(model, [f"save {tmp_path / 'new.jsonl'}", "Hi", f"save {other}", f"save {tmp_path}/no/such.jsonl"])
    assert talk.shown.count("[ERROR] save") == 3
    assert other.read_text("utf8") == "[1, 2]" and list(tmp_path.iterdir()) == [other]


def test_compare_answers_with_and_without_the_adapter() -> None:
    model = vlcore.load_model(DATA / "internvl" / "internvl3_5-1b-tiny" / "checkpoint", dtype="fp32")
    alone = model.chat("Hi", settings=GenerateConfig(max_new_tokens=3))
    targets = [name for name, _ in model.module.named_modules() if name.endswith("lm_head")]
    settings = LoraConfig(target_modules=targets, init_lora_weights=False, lora_alpha=800)
    with quiet_peft(), torch.random.fork_rng():
        torch.manual_seed(0)
        model.module = get_peft_model(model.module, settings)
    talk = Played(model, ["/compare Hi", "/compare", "/compare"])
    adapted = talk.session.messages[-1].text
    assert [m.text for m in talk.session.messages] == ["Hi", adapted]
    assert adapted != alone.text
    block = f"[with the adapter]\n{clean_text(adapted)}\n[without the adapter]\n{clean_text(alone.text)}\n{LINE}\n"
    assert [shown for _, shown in talk.turns][:2] == [block, block]


def test_compare_needs_an_adapter(model: VLModel) -> None:
    talk = Played(model, ["/compare Hi"])
    assert "[ERROR] the model without its adapter: it has none" in talk.shown
    assert talk.session.messages == ()


def test_an_answer_is_printed_whole_when_it_is_not_streamed(model: VLModel) -> None:
    written: list[str] = []
    lines = iter(["Tell a story", "exit"])
    terminal = Terminal(lambda prompt: next(lines), written.append, stream=False)
    session = Session(model)
    Talk(session, terminal, "tag", GenerateConfig(max_new_tokens=9)).run()
    assert written == [clean_text(session.messages[-1].text), f"\n{LINE}\n"]
