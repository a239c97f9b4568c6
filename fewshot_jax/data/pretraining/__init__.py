"""Raw texts for pretraining: documents, packed windows, masks, batches."""
