"""Fine-tuning: data, the model as it learns, the loop, and what is written down."""
