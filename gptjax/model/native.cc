// Few rows times a weight that is read once: what decoding on a CPU does.
//
// y[m, o] = scale[o] sum_i x[m, i] w[o, i]. Bandwidth is the limit: a code is widened to
// float32 in a register, and the weights of 4 outputs lie together, 32 of each at a
// time, so that a core reads its share front to back. (4 rows of 768 bytes side by side
// came at 5.0 GB/s a core, with prefetching at 8.7.) An output's sum is in the same
// order whatever the number of rows, so that a token does not depend on its batch.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int kLanes = 16;  // of a vector; rows are padded to twice that
using Bytes = int8_t __attribute__((vector_size(kLanes)));
using Floats = float __attribute__((vector_size(4 * kLanes)));

template <class To>
To Load(const void* from) {
  To to;
  std::memcpy(&to, from, sizeof to);
  return to;
}

// Intrinsics where g++ 12 would convert codes one by one: 31 ms a token, not 6.
Floats Widen(Bytes codes) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32((__m128i)codes));
#elif defined(__AVX2__)
  const __m128i low = (__m128i)codes, high = _mm_srli_si128(low, kLanes / 2);
  const __m256 both[2] = {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)),
                          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))};
  return Load<Floats>(both);
#else
  return __builtin_convertvector(codes, Floats);
#endif
}

float Sum(Floats v) {
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
}

// A block: 2 kLanes weights of an output, as two vectors.
struct Int8 {
  static constexpr int kBytes = 2 * kLanes;
  static constexpr bool kGroups = false;  // one scale for an output
  static void Block(const int8_t* w, float, Floats& low, Floats& high) {
    low = Widen(Load<Bytes>(w));
    high = Widen(Load<Bytes>(w + kLanes));
  }
};

struct Int4 {  // low halves of bytes are the first kLanes of a block, each code + 8
  static constexpr int kBytes = kLanes;
  static constexpr bool kGroups = true;
  static void Block(const int8_t* w, float scale, Floats& low, Floats& high) {
    const Bytes both = Load<Bytes>(w);
    low = Widen((both & 15) - 8) * scale;
    high = Widen(((both >> 4) & 15) - 8) * scale;
  }
};

// A tile: 4 outputs of up to 5 rows, whose sums stay in registers with the weights.
constexpr int kOutputs = 4, kRows = 5;

struct Product {
  const float* x;
  const int8_t* w;
  const float* scale;  // for each output, or for each block of weights
  float* y;
  int64_t rows, blocks, out;  // `out` is padded to tiles

  template <class Kind, int M>
  void Tile(int64_t o, int64_t m) const {
    const int8_t* at = w + o * blocks * Kind::kBytes;
    const float* group = Kind::kGroups ? scale + o * blocks : x;
    Floats sum[kOutputs][M] = {};
    for (int64_t b = 0; b < blocks; ++b) {
      Floats low[kOutputs], high[kOutputs];
      for (int r = 0; r < kOutputs; ++r, at += Kind::kBytes) {
        __builtin_prefetch(at + 4096);
        Kind::Block(at, group[b * kOutputs + r], low[r], high[r]);
      }
      for (int k = 0; k < M; ++k) {
        const float* from = x + ((m + k) * blocks + b) * 2 * kLanes;
        const Floats first = Load<Floats>(from), second = Load<Floats>(from + kLanes);
        for (int r = 0; r < kOutputs; ++r) {
          sum[r][k] += low[r] * first;
          sum[r][k] += high[r] * second;
        }
      }
    }
    for (int r = 0; r < kOutputs; ++r)
      for (int k = 0; k < M; ++k)
        y[(m + k) * out + o + r] = Sum(sum[r][k]) * (Kind::kGroups ? 1 : scale[o + r]);
  }

  template <class Kind, int M = kRows>
  void Rows(int64_t o, int64_t m, int64_t count) const {
    if constexpr (M > 1)
      if (count < M) return Rows<Kind, M - 1>(o, m, count);
    Tile<Kind, M>(o, m);
  }

  template <class Kind>
  void Outputs(int64_t begin, int64_t end) const {
    const int64_t tiles = (rows + kRows - 1) / kRows;
    for (int64_t o = begin; o < end; o += kOutputs)
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t m = rows * t / tiles;  // of about equal size
        Rows<Kind>(o, m, rows * (t + 1) / tiles - m);
      }
  }
};

// Calls work(chunk) for all chunks on the cores of the pool. The caller takes chunks too
// and waits only for those that somebody has begun: on a pool whose threads all wait
// for tasks of their own, it would do everything alone, and no thread waits for ever.
template <class Work>
void Share(ffi::ThreadPool& pool, int64_t chunks, Work work) {
  struct State {
    State(Work work, int64_t chunks) : work(work), chunks(chunks) {}
    const Work work;
    const int64_t chunks;
    std::atomic<int64_t> next{0}, done{0};
    void Run() {
      for (int64_t c; (c = next.fetch_add(1)) < chunks;) {
        work(c);
        done.fetch_add(1, std::memory_order_release);
      }
    }
  };
  auto state = std::make_shared<State>(work, chunks);
  const int64_t helpers = std::min(pool.num_threads(), chunks) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule([state] { state->Run(); });
  state->Run();
  while (state->done.load(std::memory_order_acquire) < chunks) std::this_thread::yield();
}

template <class Kind>
void Multiply(ffi::ThreadPool& pool, const Product& product) {
  // 64 KiB of weights at a time: a core that is late leaves its share to the other.
  const int64_t row = product.blocks * Kind::kBytes;
  const int64_t step = (65536 / (kOutputs * row) + 1) * kOutputs;
  Share(pool, (product.out + step - 1) / step, [=](int64_t chunk) {
    const int64_t begin = chunk * step;
    product.Outputs<Kind>(begin, std::min(product.out, begin + step));
  });
}

// w: (tiles, blocks, kOutputs, bytes of a block)
ffi::Error Rows(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::AnyBuffer w,
                ffi::Buffer<ffi::F32> scale, ffi::ResultBuffer<ffi::F32> y) {
  const auto dims = w.dimensions();
  const Product product{x.typed_data(), static_cast<const int8_t*>(w.untyped_data()),
                        scale.typed_data(), y->typed_data(),
                        x.dimensions()[0], dims[1], dims[0] * kOutputs};
  if (w.element_type() == ffi::S8)
    Multiply<Int8>(pool, product);
  else
    Multiply<Int4>(pool, product);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(gptjax_rows, Rows,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>());
