"""Decoding processes: started by exec, without torch, they decode parts of batches into shared memory."""
