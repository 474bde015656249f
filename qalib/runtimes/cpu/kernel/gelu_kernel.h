// GELU, the exact one: x Phi(x), with Phi the normal distribution. Included by `block_sparse_kernel.h`.

#if BYTES == 64
// max(x, 0) less the bump of `gelu_bump.h`, whose terms are chosen by permutations of two registers: half the instructions
// of a quotient.
INLINE floats gelu(floats x) {
  const __m512 size = _mm512_abs_ps((__m512)x), t = _mm512_min_ps(_mm512_set1_ps(Bump::TOP), size);  // NaN stays
  const __m512i segment = (__m512i)((floats)t * Bump::PACE + 8388608.0f);  // 2^23: a whole number in the lowest bits
  floats terms[4];
  UNROLL for (int power = 0; power < 4; power++) {
    const float* of = bump.terms[power];
    terms[power] = (floats)_mm512_permutex2var_ps(_mm512_load_ps(of), segment, _mm512_load_ps(of + 16));
  }
  const floats sum = ((terms[3] * (floats)t + terms[2]) * (floats)t + terms[1]) * (floats)t + terms[0];
  return (floats)_mm512_max_ps(_mm512_setzero_ps(), (__m512)x) - sum;
}
#else
// x (1 + erf(x / sqrt 2)) / 2, with erf as a quotient of two polynomials fitted on -4 ... 4 (error below 3e-8).
INLINE floats gelu(floats x) {
  const floats most = floats{} + 4.0f;
  floats a = x * 0.70710678f;
  a = a > most ? most : a;
  a = a < -most ? -most : a;
  const floats s = a * a;
  const floats p = ((((1.9867246e-06f * s + 2.8456815e-04f) * s + 3.8835329e-03f) * s + 5.3102345e-02f) * s +
                    1.9354973e-01f) * s + 1.12837914f;
  const floats q = ((((3.7419684e-05f * s + 1.1856126e-03f) * s + 1.5207640e-02f) * s + 1.1535191e-01f) * s +
                    5.0486154e-01f) * s + 1.0f;
  return 0.5f * x * (1.0f + a * p / q);
}
#endif
