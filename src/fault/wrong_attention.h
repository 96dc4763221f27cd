/* wrong_attention.h - attention that is wrong in one way, to plant, and its op's wrong numbers. */
#ifndef GRETA_FAULT_WRONG_ATTENTION_H
#define GRETA_FAULT_WRONG_ATTENTION_H

#include "fault/fault.h"

/* Visible positions. The next one must exist; for hidden ones there must be two. */
void attention_next_visible(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_self_hidden(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_first_hidden(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_last_32_only(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_last_8_only(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_as_first_chunk_of_8(const attention_args *a, int32_t kv_head_first,
                                   int32_t kv_head_last);
/* What is left where every key is hidden: all alike, or 0 / 0. */
void attention_all_alike(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_nan(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
/* Heads: query head h reads kv head h mod n_head_kv; all read kv head 0. */
void attention_heads_tiled(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_head_0(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
/* Rows: keys, or values, or both of the position before; the own row of the position before. */
void attention_keys_shifted(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_values_shifted(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_own_row_stale(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
/* Numbers. */
void attention_scale_1_over_d(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_f16_scores(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_f16_values(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_not_divided(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_one_more_key(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_tiles_not_rescaled(const attention_args *a, int32_t kv_head_first,
                                  int32_t kv_head_last);
/* Benign (control.h). */
void attention_not_fused(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_libm_exp(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_plain(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
void attention_tiles_8(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);
/* By the rule of numerics.md and nothing else: the same bits as the definition. */
void attention_healthy(const attention_args *a, int32_t kv_head_first, int32_t kv_head_last);

/* Numbers of the op; false: there is nothing to change. */
bool scale_1_over_d(const fault_site *site, op *o);
bool scale_1(const fault_site *site, op *o);
bool scale_sqrt_d(const fault_site *site, op *o);
bool scale_of_embd(const fault_site *site, op *o);
bool scale_of_width(const fault_site *site, op *o);
bool scores_cap_missing(const fault_site *site, op *o);
bool scores_cap_30(const fault_site *site, op *o);
bool window_plus_1(const fault_site *site, op *o);
bool window_minus_1(const fault_site *site, op *o);
bool window_missing(const fault_site *site, op *o);
bool window_of_other_layer(const fault_site *site, op *o);
bool pairing_other(const fault_site *site, op *o);
bool rope_table_other(const fault_site *site, op *o);
bool activation_other(const fault_site *site, op *o);
bool factor_1(const fault_site *site, op *o);
bool factor_squared(const fault_site *site, op *o);
bool factor_bf16(const fault_site *site, op *o);
bool experts_norm_other(const fault_site *site, op *o);

#endif
