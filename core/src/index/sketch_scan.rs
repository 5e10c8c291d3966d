//! The dot products of two-bit codes with a query of bytes.
//!
//! The 32 bytes of a group hold 128 codes: bits 0 and 1 of its bytes those of dimensions 0 to 31, bits 2 and 3 those of 32 to
//! 63, and so on, so that a shift and a mask give the codes of 32 dimensions in order.

/// Bytes of a group.
pub(super) const GROUP: usize = 32;

/// Groups whose products are summed in 16 bits: at most 4 * 8 * 2 * 3 * 127, which fits.
#[cfg(target_arch = "x86_64")]
const SHORT: usize = 8;

/// How far ahead of the record in work memory is asked for, in bytes.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 2048;

/// A query, in the order of the codes.
pub(super) struct Lookup {
    values: Vec<[[i8; GROUP]; 4]>,
    #[cfg(target_arch = "x86_64")]
    avx2: bool,
}

impl Lookup {
    /// For codes of `code_bytes` bytes a record; dimensions beyond those of `values` count nothing.
    pub(super) fn new(values: &[i8], code_bytes: usize) -> Self {
        let mut ordered = vec![[[0; GROUP]; 4]; code_bytes / GROUP];
        for (group, part) in ordered.iter_mut().zip(values.chunks(4 * GROUP)) {
            for (row, part) in group.iter_mut().zip(part.chunks(GROUP)) {
                row[..part.len()].copy_from_slice(part);
            }
        }
        Self {
            values: ordered,
            #[cfg(target_arch = "x86_64")]
            avx2: is_x86_feature_detected!("avx2"),
        }
    }

    /// For each record of `codes` the sum of code times query value.
    pub(super) fn dots(&self, codes: &[u8], out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if self.avx2 {
            // SAFETY: the processor has AVX2, which is all the function asks for.
            unsafe { self.dots_avx2(codes, out) };
            return;
        }
        self.dots_anywhere(codes, out);
    }

    /// Written so that the compiler uses whatever vector registers there are.
    fn dots_anywhere(&self, codes: &[u8], out: &mut [f32]) {
        for (record, out) in codes.chunks_exact(self.values.len() * GROUP).zip(out) {
            let mut sums = [0i32; GROUP];
            for (group, query) in record.as_chunks::<GROUP>().0.iter().zip(&self.values) {
                for (shift, query) in query.iter().enumerate() {
                    for lane in 0..GROUP {
                        let code = i16::from(group[lane] >> (2 * shift) & 3);
                        let product = code.wrapping_mul(i16::from(query[lane]));
                        sums[lane] = sums[lane].wrapping_add(i32::from(product));
                    }
                }
            }
            *out = sums.iter().sum::<i32>() as f32;
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn dots_avx2(&self, codes: &[u8], out: &mut [f32]) {
        use std::arch::x86_64::*;
        let mask = _mm256_set1_epi8(3);
        let ones = _mm256_set1_epi16(1);
        for (record, out) in codes.chunks_exact(self.values.len() * GROUP).zip(out) {
            let mut sum = _mm256_setzero_si256();
            // The processor by itself does not look beyond a page.
            let ahead = record.as_ptr().wrapping_add(AHEAD).cast();
            _mm_prefetch::<_MM_HINT_T0>(ahead);
            _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64));
            let groups = record.as_chunks::<GROUP>().0;
            for (groups, queries) in groups.chunks(SHORT).zip(self.values.chunks(SHORT)) {
                let mut short = _mm256_setzero_si256();
                for (group, query) in groups.iter().zip(queries) {
                    // SAFETY: both sides of every load are 32 bytes of an array; the loads ask for no alignment.
                    let (codes, query) = unsafe {
                        (
                            _mm256_loadu_si256(group.as_ptr().cast()),
                            [0, 1, 2, 3]
                                .map(|row: usize| _mm256_loadu_si256(query[row].as_ptr().cast())),
                        )
                    };
                    let rows = [
                        codes,
                        _mm256_srli_epi16::<2>(codes),
                        _mm256_srli_epi16::<4>(codes),
                        _mm256_srli_epi16::<6>(codes),
                    ];
                    for (row, query) in rows.into_iter().zip(query) {
                        let products = _mm256_maddubs_epi16(_mm256_and_si256(row, mask), query);
                        short = _mm256_add_epi16(short, products);
                    }
                }
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(short, ones));
            }
            let half = _mm_add_epi32(
                _mm256_castsi256_si128(sum),
                _mm256_extracti128_si256::<1>(sum),
            );
            let pair = _mm_add_epi32(half, _mm_shuffle_epi32::<0b00_00_11_10>(half));
            let one = _mm_add_epi32(pair, _mm_shuffle_epi32::<0b00_00_00_01>(pair));
            *out = _mm_cvtsi128_si32(one) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_gives_the_plain_sum() {
        for dim in [1_usize, 31, 33, 128, 384, 1000, 65_536] {
            let bytes = dim.div_ceil(4 * GROUP) * GROUP;
            let extreme = |i: usize| if i.is_multiple_of(3) { -127 } else { 127 };
            let values: Vec<i8> = (0..dim)
                .map(|i| if dim > 1000 { 127 } else { extreme(i) })
                .collect();
            let mut codes = vec![0u8; bytes * 3];
            let code = |record: usize, at: usize| (record * 7 + at * 5 + at / 9) % 4;
            let mut wanted = [0f32; 3];
            for (record, wanted) in wanted.iter_mut().enumerate() {
                let mut sum = 0i64;
                for (at, value) in values.iter().enumerate() {
                    let code = if dim > 1000 { 3 } else { code(record, at) };
                    let (group, rest) = (at / 128, at % 128);
                    codes[record * bytes + group * GROUP + rest % GROUP] |=
                        (code as u8) << (2 * (rest / GROUP));
                    sum += code as i64 * i64::from(*value);
                }
                *wanted = sum as f32;
            }
            let lookup = Lookup::new(&values, bytes);
            let (mut best, mut plain) = ([0.0; 3], [0.0; 3]);
            lookup.dots(&codes, &mut best);
            lookup.dots_anywhere(&codes, &mut plain);
            assert_eq!((best, plain), (wanted, wanted), "dim {dim}");
        }
    }
}
