"""AutoFreeze's core: adaptive freezing, activation sets and exact resumption.

Knows nothing of Prefect. The way of the data, in the order of the modules:
``config`` -> ``data`` -> ``pretrained`` -> ``blocks`` -> ``runs`` -> ``epoch`` (``training``,
``freezing``, ``gradients``, ``feed``, ``activations``, ``checkpoint``, ``evaluate``) ->
``publish`` (``report``, ``figures``, ``tracking``).

Shape legend used in every docstring: ``b`` examples of a batch, ``s`` sequence positions
(padded), ``t`` tokens of a shard or a data set (unpadded), ``h`` hidden width, ``n`` examples
of a data set, ``c`` classes, ``k`` boundary, ``L`` number of blocks.
"""
