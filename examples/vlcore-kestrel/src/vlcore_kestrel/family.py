"""What vlcore knows of Kestrel before anything of it is loaded."""

from vlcore.family import FamilyOption, ModelFamily, ModelRecord


def recognise(config, folder):
    return config.get("model_type") == "kestrel"


FAMILY = ModelFamily(
    name="kestrel",
    models=(ModelRecord(name="kestrel-1b", huggingface="kestrel-vl/kestrel-1b"),),
    recognise=recognise,
    options=(FamilyOption(name="frames", kind=int, default=4, minimum=1, help="Frames taken of a video."),),
    tags=("<image>", "<video>"),
    generation={"temperature": 0.0, "max_new_tokens": 256},
)
