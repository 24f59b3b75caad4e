// Few rows times a float32 weight, as it lies: y[m, o] = sum_i x[m, i] w[i, o], or w[o, i].
//
// Bandwidth is the limit, of memory for the weight and of the caches for the rest. A
// block of weights is in a register while all rows meet it, and the block that comes
// next is fetched meanwhile: of 16 rows, 48 products of GPT-2 124M take 34 ms without
// fetching, 19 with it, and a plain read of their weights 12. An output's sum is in the
// same order whatever the number of rows.

#include <vector>

#include "native.cc"

namespace {

constexpr int kDeep = 128, kWide = 128;  // a panel: 64 KiB of weights
#ifdef __AVX512F__
constexpr int kTall = 16;  // sums that stay in registers: of rows, or of outputs
#else
constexpr int kTall = 6;
#endif

struct FewRows {
  const float *x, *w;  // x (in, stride): an input of all rows lies together
  float* y;
  int64_t rows, stride, in, out;

  // w (in, out): kLanes outputs of M rows, `deep` inputs from i on.
  template <int M>
  void Tile(int64_t m, int64_t i, int64_t o, int64_t deep, const float* next) const {
    Floats sum[M] = {};
    if (i > 0)
      for (int k = 0; k < M; ++k) sum[k] = Load<Floats>(y + (m + k) * out + o);
    for (const int64_t end = i + deep; i < end; ++i, next += out) {
      __builtin_prefetch(next, 0, 2);
      const Floats weights = Load<Floats>(w + i * out + o);
      for (int k = 0; k < M; ++k) sum[k] += weights * x[i * stride + m + k];
    }
    for (int k = 0; k < M; ++k) std::memcpy(y + (m + k) * out + o, sum + k, sizeof *sum);
  }

  template <int M = kTall>
  void Rows(int64_t m, int64_t i, int64_t o, int64_t deep, const float* next) const {
    if constexpr (M > 1)
      if (rows - m < M) return Rows<M - 1>(m, i, o, deep, next);
    Tile<M>(m, i, o, deep, next);
  }

  void Panels(int64_t begin, int64_t end) const {
    for (int64_t i = 0; i < in; i += kDeep) {
      // The panel below, or the first of the next outputs.
      const int64_t ahead = i + kDeep < in ? kDeep * out : end - begin - i * out;
      for (int64_t o = begin; o + kLanes <= end; o += kLanes)
        for (int64_t m = 0; m < rows; m += kTall)
          Rows(m, i, o, std::min<int64_t>(kDeep, in - i), w + i * out + o + ahead);
    }
    if ((end - begin) % kLanes)  // the last tile begins before the one before ends
      for (int64_t m = 0; m < rows; m += kTall) Rows(m, 0, end - kLanes, in, w);
  }

  // w (out, in): kTall outputs of kLanes rows.
  void Turned(int64_t begin, int64_t end) const {
    for (int64_t at = begin; at < end; at += kTall) {
      const int64_t o = std::min(at, end - kTall);
      for (int64_t m = 0; m < rows; m += kLanes) {
        Floats sum[kTall] = {};
        for (int64_t i = 0; i < in; ++i) {
          const float* weights = w + o * in + i;
          if (i % kLanes == 0)
            for (int r = 0; r < kTall; ++r)
              __builtin_prefetch(weights + (kTall + r) * in, 0, 2);
          const Floats values = Load<Floats>(x + i * stride + m);
          for (int r = 0; r < kTall; ++r) sum[r] += values * weights[r * in];
        }
        for (int64_t k = 0; k < std::min<int64_t>(kLanes, rows - m); ++k)
          for (int r = 0; r < kTall; ++r) y[(m + k) * out + o + r] = sum[r][k];
      }
    }
  }
};

ffi::Error Few(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> w,
               bool inputs_last, ffi::ResultBuffer<ffi::F32> y) {
  const int64_t rows = x.dimensions()[0], in = x.dimensions()[1];
  const int64_t stride = (rows + kLanes - 1) / kLanes * kLanes;
  std::vector<float> turned(in * stride);
  for (int64_t begin = 0; begin < in; begin += kLanes)
    for (int64_t m = 0; m < rows; ++m)
      for (int64_t i = begin; i < std::min(in, begin + kLanes); ++i)
        turned[i * stride + m] = x.typed_data()[m * in + i];
  const int64_t out = y->dimensions()[1];
  const FewRows product{turned.data(),   w.typed_data(), y->typed_data(), rows,
                        stride,          in,             out};
  const int64_t chunks = std::max<int64_t>(1, out / kWide);
  Share(pool, chunks, [=](int64_t chunk) {
    const int64_t begin = chunk * kWide;
    const int64_t end = chunk + 1 < chunks ? begin + kWide : out;
    inputs_last ? product.Turned(begin, end) : product.Panels(begin, end);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(gptjax_few, Few,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Attr<bool>("inputs_last")
                                  .Ret<ffi::Buffer<ffi::F32>>());
