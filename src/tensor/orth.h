/* SPDX-License-Identifier: Apache-2.0 */
/* Singular vectors and orthonormal factors of one matrix in f64 on one thread, for work
 * that has many matrices side by side. By way of the Gram matrix of the smaller side (one
 * symmetric eigenproblem and products), which is several times faster than LAPACK's SVD;
 * where that would lose accuracy (tiny singular values asked for) LAPACK's SVD is taken.
 * Row-major. Internal. */
#ifndef SYI_ORTH_H
#define SYI_ORTH_H

#include "base/base.h"

/* C[m,n] = op(A) op(B) (+ C), contiguous. */
void syi_mul_f64(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha, const double *a, const double *b, double beta, double *c);
/* Eigenvectors (rows of v[n,n]) and values w[n], largest first, of symmetric a (destroyed). */
sy_status syi_eigh(sy_context *ctx, int64_t n, double *a, double *w, double *v);
/* The r leading triplets of a[m,n]: ut[r,m], s[r], vt[r,n]. */
sy_status syi_leading(sy_context *ctx, int64_t m, int64_t n, const double *a, int64_t r, double *ut, double *s, double *vt);
/* x[m,n] becomes the nearest matrix with orthonormal rows (m <= n) or columns: U V^T of its
 * SVD. *nuclear (may be NULL): the sum of its singular values. */
sy_status syi_polar(sy_context *ctx, int64_t m, int64_t n, double *x, double *nuclear);

/* The SVD of b[m,k] a[k,n] without making the product: ut[k,m], s[k], vt[k,n] (k <= m, n),
 * largest first. By QR of both factors. */
sy_status syi_factored_svd(sy_context *ctx, int64_t m, int64_t n, int64_t k, const double *b, const double *a, double *ut, double *s, double *vt);

#endif
