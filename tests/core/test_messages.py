from pathlib import Path

import pytest
from vlcore.errors import UsageError
from vlcore.messages import Image, Message, Text, Video, make_message, read_inline, read_message, user, write_message

PLAIN = {
    "role": "user",
    "content": [
        {"type": "text", "text": "Look"},
        {"type": "image", "image": "cat.png"},
        {"type": "video", "video": "cat.mp4"},
        {"type": "video", "frames": ["1.png", "2.png"]},
    ],
}


def test_text_alone_is_one_part():
    assert make_message("user", "Hi") == Message("user", (Text("Hi"),))


def test_parts_keep_their_order():
    message = make_message("user", ["a", Image("x"), Text("b"), Video("y")])
    assert message.content == (Text("a"), Image("x"), Text("b"), Video("y"))
    assert (message.text, message.media) == ("ab", (Image("x"), Video("y")))


def test_user_puts_media_before_the_text():
    assert user("What?", ["a.png"], ["b.mp4"]).content == (Image("a.png"), Video("b.mp4"), Text("What?"))


def test_unknown_role_is_refused():
    with pytest.raises(UsageError, match="role 'robot'"):
        Message("robot", ())


def test_video_needs_a_file_or_frames():
    with pytest.raises(UsageError, match="neither a file nor frames"):
        Video()


def test_plain_form_is_written_back_as_it_was_read():
    assert write_message(read_message(PLAIN)) == PLAIN
    untrained = {"role": "assistant", "content": [{"type": "text", "text": "x"}], "loss": False}
    assert write_message(read_message(untrained)) == untrained


def test_unknown_part_is_refused():
    with pytest.raises(UsageError, match="type 'audio'"):
        read_message({"role": "user", "content": [{"type": "audio"}]})


@pytest.mark.parametrize("source", ["https://x/y.png", "data:image/png;base64,AA", "file:///y.png", "/y.png"])
def test_relative_paths_start_from_the_folder_and_nothing_else_does(source, tmp_path):
    def read(image):
        return read_message({"role": "user", "content": [{"type": "image", "image": image}]}, tmp_path).media

    assert read("y.png") == (Image(tmp_path / "y.png"),)
    assert read(source) in [(Image(source),), (Image(Path(source)),)]


def test_inline_images_become_tags_in_order():
    text, images = read_inline("a <img> 1.png</img> b <img>2.png</img>", "<image>")
    assert (text, images) == ("a <image> b <image>", (Image("1.png"), Image("2.png")))
