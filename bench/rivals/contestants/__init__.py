"""One module a contestant. Each has the same few names:

`PACKAGES`   distributions whose versions are printed
`SETTINGS`   workload -> how it is set up, in words for the table's notes; a workload it lacks is skipped
`RESUME`     "state" (the library keeps a position), "skip" (our sampler skips indices) or "replay" (samples are read
             and thrown away); None when there is no honest way
`prepare(workload, source, target)`   converts the source into the contestant's own format
`open_feed(workload, target, state)`  a `Feed`; with a state, it goes on where that was taken

A `Feed` is iterated once for each epoch and yields batches: tokens as an integer tensor [32, 2048]; images as
(u8 tensor [32, 3, 224, 224], tensor of image numbers); a blob as a 1-D u8 tensor. `state(batches)` is the position
after so many batches of the running epoch, in plain values; a `close()` is called at the end where there is one. The library is imported at the top of its module, because
that import is measured.
"""

ORDER = ("floor", "forebay", "torch_memmap", "huggingface", "litdata", "grain", "webdataset", "mosaicml")
