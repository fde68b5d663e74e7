"""Kestrel's prompt: questions and answers, a line each; pictures between marks."""

from vlcore.template import ChatTemplate, Segment, Stop


class KestrelTemplate(ChatTemplate):
    def write_video(self, video, options):
        lines = ((Segment(f"{number}: "), *self.write_image(frame, frame=True))
                 for number, frame in enumerate(video.frames, start=1))
        return tuple(segment for line in lines for segment in line)


def build_template():
    return KestrelTemplate(
        roles={"system": "", "user": "Q: ", "assistant": "A: "},
        ends={"system": "", "user": "", "assistant": "<end>"},
        after="\n",
        prefix="<begin>",
        system="Kestrel tells what it sees.",
        image="<see><image></see>",
        specials=frozenset({"<begin>", "<end>", "<see>", "</see>"}),
        tags=("<image>", "<video>"),
        stop=Stop(tokens=("<end>",)),
    )
