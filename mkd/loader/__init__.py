"""From a data set to batches for training: which tiles a step reads, who decodes them, and their augmentation.

- `Sampler` says by arithmetic which (epoch, sample) pairs a rank reads in a step; it knows no files.
- `TileSet` is the data set as training sees it: one tile by its number, and what the streams below read.
- `loader.stream` yields the batches of some steps in the sampler's order; `loader.in_order` yields each tile once.
- `workers.DecodingPool` decodes batches in processes; with ``workers=0`` the same code runs in this process.
- `workers.WorkerHandle` is one process of the pool, `worker_main` its program, `messages` what they exchange.
- `workers.WorkStealingScheduler` decides which process decodes a part of a batch next.
- `workers.SharedBufferPool` holds the shared memory that processes decode into and batches are views of.
- `DecodedBatch` is a filled buffer, `Batch` the same as tensors, and `Batch.to` copies it to the training device.
- `BadTileBudget` counts tiles that could not be read and were replaced.
- `augment` makes weak and strong views of a batch on the training device.
"""
