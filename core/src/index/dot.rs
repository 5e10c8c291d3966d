//! The dot product of a query of 16-bit numbers with a vector of bytes.

/// Sums over as many numbers as both have. The caller sees to it that the sum fits in 32 bits.
pub(super) fn dot(query: &[i16], vector: &[i8]) -> i32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, which is all the function asks for.
        return unsafe { dot_avx2(query, vector) };
    }
    dot_anywhere(query, vector)
}

/// Written so that the compiler keeps independent sums in vector registers: one sum, or the checks of plain `+`, would be scalar.
fn dot_anywhere(query: &[i16], vector: &[i8]) -> i32 {
    const LANES: usize = 32;
    let (queries, query) = query.as_chunks::<LANES>();
    let (vectors, vector) = vector.split_at(vector.len().min(queries.len() * LANES));
    let mut sums = [0i32; LANES];
    for (q, v) in queries.iter().zip(vectors.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            let product = i32::from(q[lane]).wrapping_mul(i32::from(v[lane]));
            sums[lane] = sums[lane].wrapping_add(product);
        }
    }
    sums.iter()
        .fold(rest(query, vector), |sum, lane| sum.wrapping_add(*lane))
}

fn rest(query: &[i16], vector: &[i8]) -> i32 {
    query.iter().zip(vector).fold(0i32, |sum, (&q, &v)| {
        sum.wrapping_add(i32::from(q).wrapping_mul(i32::from(v)))
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_avx2(query: &[i16], vector: &[i8]) -> i32 {
    use std::arch::x86_64::*;
    const LANES: usize = 32;
    let common = query.len().min(vector.len());
    let (queries, query) = query[..common].as_chunks::<LANES>();
    let (vectors, vector) = vector[..common].as_chunks::<LANES>();
    let (mut low, mut high) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    for (q, v) in queries.iter().zip(vectors) {
        let (q, v): (*const __m256i, *const __m128i) = (q.as_ptr().cast(), v.as_ptr().cast());
        // SAFETY: 64 bytes of one array and 32 of the other; the loads ask for no alignment.
        let (q, v) = unsafe {
            (
                [_mm256_loadu_si256(q), _mm256_loadu_si256(q.add(1))],
                [_mm_loadu_si128(v), _mm_loadu_si128(v.add(1))],
            )
        };
        // Two products of 16 by 8 bits fit in 32.
        low = _mm256_add_epi32(low, _mm256_madd_epi16(q[0], _mm256_cvtepi8_epi16(v[0])));
        high = _mm256_add_epi32(high, _mm256_madd_epi16(q[1], _mm256_cvtepi8_epi16(v[1])));
    }
    let sum = _mm256_add_epi32(low, high);
    let half = _mm_add_epi32(
        _mm256_castsi256_si128(sum),
        _mm256_extracti128_si256::<1>(sum),
    );
    let pair = _mm_add_epi32(half, _mm_shuffle_epi32::<0b00_00_11_10>(half));
    let one = _mm_add_epi32(pair, _mm_shuffle_epi32::<0b00_00_00_01>(pair));
    _mm_cvtsi128_si32(one).wrapping_add(rest(query, vector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_gives_the_plain_sum() {
        for dim in [0_usize, 1, 15, 16, 31, 33, 384, 1000, 4099] {
            let query: Vec<i16> = (0..dim)
                .map(|i| {
                    if i % 5 == 0 {
                        -4096
                    } else {
                        (i * 37 % 4096) as i16
                    }
                })
                .collect();
            // Padded, as vectors of a partition are.
            let vector: Vec<i8> = (0..dim.next_multiple_of(64))
                .map(|i| {
                    if i % 3 == 0 {
                        -128
                    } else {
                        (i * 11 % 127) as i8
                    }
                })
                .collect();
            let products = query.iter().zip(&vector);
            let wanted: i64 = products.map(|(q, v)| i64::from(*q) * i64::from(*v)).sum();
            for sum in [dot(&query, &vector), dot_anywhere(&query, &vector)] {
                assert_eq!(i64::from(sum), wanted, "dim {dim}");
            }
        }
    }
}
