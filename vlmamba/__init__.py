"""VL-Mamba: a vision-language model whose language model is a Mamba state-space model.

Axes, in every docstring and shape comment: `b` batch, `l` sequence, `p` patches (`h_p` x `w_p`),
`d` model width, `e` inner width, `n` state, `r` dt_rank, `k` d_conv, `v` vocabulary,
`c h w` pixel channels, rows and columns.
"""

__version__ = "0.1.0"
