//! A block's full groups with the instructions of x86-64: the same operations in the same order as [`super::plain_block`].

use std::arch::x86_64::{
    __m256, __m512, _CMP_NLT_UQ, _mm_cvtsi64_si128, _mm256_add_epi32, _mm256_add_ps, _mm256_andnot_ps,
    _mm256_cmp_ps, _mm256_cvtepu8_epi32, _mm256_loadu_ps, _mm256_movemask_ps, _mm256_mul_ps,
    _mm256_permutevar8x32_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    _mm256_storeu_si256, _mm512_abs_ps, _mm512_add_epi32, _mm512_add_ps, _mm512_cmp_ps_mask, _mm512_loadu_ps,
    _mm512_maskz_compress_epi32, _mm512_maskz_compress_ps, _mm512_maskz_mov_ps, _mm512_mul_ps,
    _mm512_set_epi32, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    _mm512_storeu_si512,
};

use super::{Kept, LANES, Pass};

/// Lanes of an AVX2 register.
const HALF: usize = 8;

/// Many are kept where it is more than one of so many.
const CROWDED: usize = 64;

/// For every mask of eight lanes the numbers of those that are set, ascending, a byte each.
static SET_LANES: [u64; 1 << HALF] = set_lanes();

const fn set_lanes() -> [u64; 1 << HALF] {
    let mut table = [0; 1 << HALF];
    let mut mask = 0;
    while mask < table.len() {
        let (mut lane, mut place) = (0, 0);
        while lane < HALF {
            if mask >> lane & 1 == 1 {
                table[mask] |= (lane as u64) << (8 * place);
                place += 1;
            }
            lane += 1;
        }
        mask += 1;
    }
    table
}

impl Kept {
    /// The places behind the last index and the last value, with room for `COUNT` elements each.
    fn behind<const COUNT: usize>(&mut self) -> (*mut u32, *mut f32) {
        self.indices.reserve(COUNT);
        self.values.reserve(COUNT);
        let (indices, values) = (self.indices.spare_capacity_mut(), self.values.spare_capacity_mut());
        (indices.as_mut_ptr().cast(), values.as_mut_ptr().cast())
    }

    /// Takes in `count` elements that were written behind the last.
    ///
    /// # Safety
    /// They were written, within the capacity.
    unsafe fn grow(&mut self, count: usize) {
        let len = self.len() + count;
        // SAFETY: by the contract.
        unsafe {
            self.indices.set_len(len);
            self.values.set_len(len);
        }
    }
}

#[target_feature(enable = "avx2,popcnt")]
pub(super) fn avx2_block(
    pass: Pass,
    first_index: usize,
    gradient: &[[f32; LANES]],
    residual: &mut [[f32; LANES]],
    kept: &mut Kept,
) -> [f32; LANES] {
    // Where many are kept, branches that are guessed wrongly cost more than moving none.
    let is_crowded = CROWDED * kept.len() > first_index - pass.first_index;
    if is_crowded {
        avx2_groups::<true>(pass, first_index, gradient, residual, kept)
    } else {
        avx2_groups::<false>(pass, first_index, gradient, residual, kept)
    }
}

#[inline]
#[target_feature(enable = "avx2,popcnt")]
fn avx2_groups<const IS_CROWDED: bool>(
    pass: Pass,
    first_index: usize,
    gradient: &[[f32; LANES]],
    residual: &mut [[f32; LANES]],
    kept: &mut Kept,
) -> [f32; LANES] {
    let mut squares = [_mm256_setzero_ps(); LANES / HALF];
    let mut index = first_index;
    for (gradient, residual) in gradient.iter().zip(residual) {
        let (gradient, _) = gradient.as_chunks::<HALF>();
        let (residual, _) = residual.as_chunks_mut::<HALF>();
        for ((g, r), squares) in gradient.iter().zip(residual).zip(&mut squares) {
            avx2_half::<IS_CROWDED>(pass, index, g, r, squares, kept);
            index += HALF;
        }
    }
    let mut lanes = [0.0; LANES];
    for (lanes, squares) in lanes.as_chunks_mut::<HALF>().0.iter_mut().zip(squares) {
        // SAFETY: eight f32 are written to eight f32.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), squares) };
    }
    lanes
}

#[inline]
#[target_feature(enable = "avx2,popcnt")]
fn avx2_half<const IS_CROWDED: bool>(
    pass: Pass,
    index: usize,
    gradient: &[f32; HALF],
    residual: &mut [f32; HALF],
    squares: &mut __m256,
    kept: &mut Kept,
) {
    // SAFETY: eight f32 each.
    let (g, r) = unsafe { (_mm256_loadu_ps(gradient.as_ptr()), _mm256_loadu_ps(residual.as_ptr())) };
    let e = _mm256_add_ps(g, _mm256_mul_ps(_mm256_set1_ps(pass.rescale), r));
    *squares = _mm256_add_ps(*squares, _mm256_mul_ps(e, e));
    let magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0), e);
    // "Not less than" holds of what is no number, too.
    let is_large = _mm256_cmp_ps::<_CMP_NLT_UQ>(magnitude, _mm256_set1_ps(pass.threshold));
    let mask = _mm256_movemask_ps(is_large) as u32;
    // SAFETY: eight f32 are written to eight f32.
    unsafe { _mm256_storeu_ps(residual.as_mut_ptr(), _mm256_andnot_ps(is_large, e)) };
    if IS_CROWDED || mask != 0 {
        let order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(SET_LANES[mask as usize] as i64));
        let values = _mm256_permutevar8x32_ps(e, order);
        let indices = _mm256_add_epi32(order, _mm256_set1_epi32(index as i32));
        // SAFETY: eight elements each are written where there is room for eight, of which the marked are taken.
        unsafe {
            let (at_indices, at_values) = kept.behind::<HALF>();
            _mm256_storeu_si256(at_indices.cast(), indices);
            _mm256_storeu_ps(at_values, values);
            kept.grow(mask.count_ones() as usize);
        }
    }
}

#[target_feature(enable = "avx512f,popcnt")]
pub(super) fn avx512_block(
    pass: Pass,
    first_index: usize,
    gradient: &[[f32; LANES]],
    residual: &mut [[f32; LANES]],
    kept: &mut Kept,
) -> [f32; LANES] {
    let mut squares = _mm512_setzero_ps();
    let mut index = first_index;
    for (g, r) in gradient.iter().zip(residual) {
        avx512_group(pass, index, g, r, &mut squares, kept);
        index += LANES;
    }
    let mut lanes = [0.0; LANES];
    // SAFETY: sixteen f32 are written to sixteen f32.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), squares) };
    lanes
}

#[inline]
#[target_feature(enable = "avx512f,popcnt")]
fn avx512_group(
    pass: Pass,
    index: usize,
    gradient: &[f32; LANES],
    residual: &mut [f32; LANES],
    squares: &mut __m512,
    kept: &mut Kept,
) {
    // SAFETY: sixteen f32 each.
    let (g, r) = unsafe { (_mm512_loadu_ps(gradient.as_ptr()), _mm512_loadu_ps(residual.as_ptr())) };
    let e = _mm512_add_ps(g, _mm512_mul_ps(_mm512_set1_ps(pass.rescale), r));
    *squares = _mm512_add_ps(*squares, _mm512_mul_ps(e, e));
    let mask = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(_mm512_abs_ps(e), _mm512_set1_ps(pass.threshold));
    // SAFETY: sixteen f32 are written to sixteen f32.
    unsafe { _mm512_storeu_ps(residual.as_mut_ptr(), _mm512_maskz_mov_ps(!mask, e)) };
    let lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    let indices = _mm512_add_epi32(lanes, _mm512_set1_epi32(index as i32));
    let (indices, values) = (_mm512_maskz_compress_epi32(mask, indices), _mm512_maskz_compress_ps(mask, e));
    // SAFETY: sixteen elements each are written where there is room for sixteen, of which the marked are taken.
    unsafe {
        let (at_indices, at_values) = kept.behind::<LANES>();
        _mm512_storeu_si512(at_indices.cast(), indices);
        _mm512_storeu_ps(at_values, values);
        kept.grow(mask.count_ones() as usize);
    }
}
