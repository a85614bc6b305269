/* SPDX-License-Identifier: GPL-3.0-or-later */
/* SHA-256 by the processor's own instructions, for a wolfSSL that does not know them (5.5.4 has AVX2
 * only). A handshake hashes some 120 blocks, half of them for key derivation; this takes a quarter of
 * the time for each.
 *
 * The linker puts __wrap_X in the place of wolfSSL's X (Makefile: --wrap), and calls X itself __real_X.
 * wolfSSL chooses these two where there are AVX2 and BMI2, as on every processor with SHA instructions
 * that is made for servers. Only with our own build of wolfSSL: the distribution's has neither. */
#include "io/tls_priv.h"

#include <wolfssl/wolfcrypt/sha256.h>

#if defined(HAVE_SECRET_CALLBACK) && defined(USE_INTEL_SPEEDUP) && defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

int __real_Transform_Sha256_AVX2_RORX(wc_Sha256 *sha, const byte *p);
int __real_Transform_Sha256_AVX2_RORX_Len(wc_Sha256 *sha, const byte *p, word32 n);
int __wrap_Transform_Sha256_AVX2_RORX(wc_Sha256 *sha, const byte *p);
int __wrap_Transform_Sha256_AVX2_RORX_Len(wc_Sha256 *sha, const byte *p, word32 n);

/* FIPS 180-4, 4.2.2 */
static const uint32_t k[64] = {0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b,
	0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3,
	0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6,
	0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d,
	0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
	0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
	0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585,
	0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
	0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa,
	0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static bool have_sha(void)
{
	static _Atomic int known; /* 0: not asked yet */
	int v = atomic_load_explicit(&known, memory_order_relaxed);
	unsigned a, b, c, d;

	if (v == 0) {
		v = __get_cpuid_count(7, 0, &a, &b, &c, &d) && b >> 29 & 1 ? 1 : 2;
		atomic_store_explicit(&known, v, memory_order_relaxed);
	}
	return v == 1;
}

/* The instructions want the state as ABEF and CDGH, and take four rounds' words at a time. */
__attribute__((target("sha,sse4.1"))) static void compress(
	word32 *state, const byte *p, size_t blocks)
{
	const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
	__m128i t = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
	__m128i cdgh = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b);
	__m128i abef = _mm_alignr_epi8(t, cdgh, 8);

	cdgh = _mm_blend_epi16(cdgh, t, 0xf0);
	for (; blocks > 0; blocks--, p += 64) {
		const __m128i abef_before = abef, cdgh_before = cdgh;
		__m128i w[4];

#pragma GCC unroll 16
		for (int i = 0; i < 16; i++) {
			__m128i *now = &w[i % 4], wk;

			if (i < 4) {
				*now = _mm_shuffle_epi8(
					_mm_loadu_si128((const __m128i *)(p + 16 * i)), swap);
			} else {
				/* words i*4-16 .. -13 are in *now, the newest three are behind it */
				const __m128i *last = &w[(i + 3) % 4];

				*now = _mm_sha256msg1_epu32(*now, w[(i + 1) % 4]);
				*now = _mm_add_epi32(
					*now, _mm_alignr_epi8(*last, w[(i + 2) % 4], 4));
				*now = _mm_sha256msg2_epu32(*now, *last);
			}
			wk = _mm_add_epi32(*now, _mm_loadu_si128((const __m128i *)&k[4 * i]));
			cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
			abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));
		}
		abef = _mm_add_epi32(abef, abef_before);
		cdgh = _mm_add_epi32(cdgh, cdgh_before);
	}
	t = _mm_shuffle_epi32(abef, 0x1b);
	cdgh = _mm_shuffle_epi32(cdgh, 0xb1);
	_mm_storeu_si128((__m128i *)state, _mm_blend_epi16(t, cdgh, 0xf0));
	_mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(cdgh, t, 8));
}

int __wrap_Transform_Sha256_AVX2_RORX(wc_Sha256 *sha, const byte *p)
{
	if (!have_sha())
		return __real_Transform_Sha256_AVX2_RORX(sha, p);
	compress(sha->digest, p, 1);
	return 0;
}

/* n is a multiple of the block. */
int __wrap_Transform_Sha256_AVX2_RORX_Len(wc_Sha256 *sha, const byte *p, word32 n)
{
	if (!have_sha())
		return __real_Transform_Sha256_AVX2_RORX_Len(sha, p, n);
	compress(sha->digest, p, n / WC_SHA256_BLOCK_SIZE);
	return 0;
}
#endif
