"""LLaVA-1.5 for vlcore."""

import vlcore
from vlcore.family import ModelFamily, ModelRecord

MODELS = (ModelRecord(name="llava-1_5-7b", huggingface="llava-hf/llava-1.5-7b-hf"),)


@vlcore.hookimpl
def register_models():
    return [ModelFamily(name="llava", native=("llava",), models=MODELS)]
