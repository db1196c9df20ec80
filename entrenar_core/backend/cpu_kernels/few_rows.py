"""x Wᵀ for few rows x: what generation and short texts multiply by.

BLAS copies a whole operand into a form of its own before it multiplies, which takes longer than multiplying by a few
rows. Here four rows of W and four of x are read side by side, and their sixteen dot products stay in registers.
"""

from __future__ import annotations

from entrenar_core.backend.cpu_kernels.elementary import ZERO
from entrenar_core.jit import kernel


@kernel()
def few_rows(x, w, y, first, start, stop):
    """y[m, first + n] = <x[m], w[n]> for x [M, K], w [N, K], n from start to stop; at an end rows come twice."""
    last_m = x.shape[0] - 1
    for n in range(start, stop, 4):
        n1 = min(n + 1, stop - 1)
        n2 = min(n + 2, stop - 1)
        n3 = min(n + 3, stop - 1)
        w0 = w[n]
        w1 = w[n1]
        w2 = w[n2]
        w3 = w[n3]
        for m in range(0, x.shape[0], 4):
            m1 = min(m + 1, last_m)
            m2 = min(m + 2, last_m)
            m3 = min(m + 3, last_m)
            x0 = x[m]
            x1 = x[m1]
            x2 = x[m2]
            x3 = x[m3]
            a0 = a1 = a2 = a3 = ZERO
            b0 = b1 = b2 = b3 = ZERO
            c0 = c1 = c2 = c3 = ZERO
            d0 = d1 = d2 = d3 = ZERO
            for k in range(w0.size):
                a = w0[k]
                b = w1[k]
                c = w2[k]
                d = w3[k]
                p = x0[k]
                q = x1[k]
                r = x2[k]
                s = x3[k]
                a0 += p * a
                a1 += q * a
                a2 += r * a
                a3 += s * a
                b0 += p * b
                b1 += q * b
                b2 += r * b
                b3 += s * b
                c0 += p * c
                c1 += q * c
                c2 += r * c
                c3 += s * c
                d0 += p * d
                d1 += q * d
                d2 += r * d
                d3 += s * d
            y[m, first + n] = a0
            y[m1, first + n] = a1
            y[m2, first + n] = a2
            y[m3, first + n] = a3
            y[m, first + n1] = b0
            y[m1, first + n1] = b1
            y[m2, first + n1] = b2
            y[m3, first + n1] = b3
            y[m, first + n2] = c0
            y[m1, first + n2] = c1
            y[m2, first + n2] = c2
            y[m3, first + n2] = c3
            y[m, first + n3] = d0
            y[m1, first + n3] = d1
            y[m2, first + n3] = d2
            y[m3, first + n3] = d3
