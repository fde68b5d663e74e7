"""A tiny random Kestrel in the layout of the release."""

import json

MARKS = ("<begin>", "<end>", "<see>", "</see>", "<pixel>")


def write_tiny(folder, texts, seed):
    """Writes config.json, a tokenizer that can spell everything, and random weights."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion
    from vlcore.shards import write_tensors

    from vlcore_kestrel.weights import KestrelForConditionalGeneration, native_config

    config = describe_model(write_tokenizer(folder, texts))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = KestrelForConditionalGeneration(native_config(config))
    write_tensors(folder / "model.safetensors", revert_weight_conversion(model, model.state_dict()))


def describe_model(vocabulary):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {
        "model_type": "kestrel",
        "vision": {**sizes, "image_size": 32, "patch_size": 8},
        "text": {**sizes, "num_key_value_heads": 2, "vocab_size": vocabulary, "max_position_embeddings": 2048},
        "pixel_token": vocabulary - 1,
    }


def write_tokenizer(folder, texts):
    """Writes the tokenizer and returns the size of its vocabulary; the marks are its last tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["Q: A: Kestrel tells what it sees.\n", *texts], trainer)
    tokenizer.add_special_tokens(list(MARKS))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>", "pad_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer.get_vocab_size()
