(** What the shape of the transformer implies, for all weights.

    All embeddings have the same root mean square, and scores depend on the distance between two
    positions alone. So attention adds up the sines of the digits, with fixed weights, and which digit
    wins depends on the last token and on one number: what channel 1 of the stream is after the
    attention. *)

Require Import Reals ZArith List Lia Lra Psatz.
From Adder Require Import Transformer.
Import ListNotations.
Open Scope R_scope.

Section Model.
Variable m : model.

Definition cosine (d : Z) : R := cos (digit_angle m d).
Definition sine (d : Z) : R := sin (digit_angle m d).

(** The root mean square of every embedding. *)
Definition rms_0 : R := sqrt (1 / 2 + eps).

(** Weight of the key [distance] positions back, before the softmax divides. *)
Definition weight (distance : nat) : R :=
  exp (value (query_scale m) * cos (2 * PI * INR distance / 12 + value (query_angle m))
       / ((1 / 2 + eps) * sqrt 2)).

(** Channel 1 of the last stream after the attention. *)
Definition seen_by (tokens : list Z) : R :=
  let last := (length tokens - 1)%nat in
  let positions := seq 0 (length tokens) in
  sine (nth last tokens 0%Z)
  + value (out m) / (rms_0 * sum (map (fun p => weight (last - p)) positions))
    * sum (map (fun p => weight (last - p) * sine (nth p tokens 0%Z)) positions).

(** The stream after the MLP times its root mean square before it, when the last token is [z] and
    channel 1 was [u]. *)
Definition rms_1 (z : Z) (u : R) : R := sqrt ((cosine z ^ 2 + u ^ 2 + 1) / 4 + eps).
Definition unit_0 (z : Z) (u : R) : R := relu (value (up m) * cosine z + u).
Definition unit_1 (z : Z) (u : R) : R := relu (value (up m) * cosine z - u).
Definition read_0 (z : Z) (u : R) : R :=
  cosine z * rms_1 z u + value (down_0 m) * (unit_0 z u + unit_1 z u).
Definition read_1 (z : Z) (u : R) : R :=
  u * rms_1 z u + value (down_1 m) * (unit_0 z u - unit_1 z u).

(** By how much digit [s] leads digit [d], up to a positive factor. *)
Definition lead (z : Z) (u : R) (s d : Z) : R :=
  value (head m) * ((cosine s - cosine d) * read_0 z u + (sine s - sine d) * read_1 z u).

(** ** Embeddings *)

Lemma eps_pos : 0 < eps.
Proof. unfold eps; lra. Qed.

Lemma rms_0_pos : 0 < rms_0.
Proof. apply sqrt_lt_R0. pose proof eps_pos. lra. Qed.

Lemma rms_0_sqr : rms_0 * rms_0 = 1 / 2 + eps.
Proof. apply sqrt_sqrt. pose proof eps_pos. lra. Qed.

Lemma cos2_sin2 x : cos x ^ 2 + sin x ^ 2 = 1.
Proof. pose proof (sin2_cos2 x) as H. unfold Rsqr in H. lra. Qed.

Lemma rms_embed p t : rms (embed m p t) = rms_0.
Proof.
  unfold rms, rms_0. f_equal. simpl ch0; simpl ch1; simpl ch2; simpl ch3.
  pose proof (cos2_sin2 (digit_angle m t)). pose proof (cos2_sin2 (position_angle p)). lra.
Qed.

(** ** Scores *)

Lemma score_embed p t p' t' : (p' <= p)%nat ->
  score m (norm (embed m p t)) (norm (embed m p' t')) =
  value (query_scale m) * cos (2 * PI * INR (p - p') / 12 + value (query_angle m))
  / ((1 / 2 + eps) * sqrt 2).
Proof.
  intros H. unfold score, norm. rewrite !rms_embed. simpl ch2; simpl ch3.
  replace (2 * PI * INR (p - p') / 12 + value (query_angle m))
    with (position_angle p + value (query_angle m) - position_angle p')
    by (unfold position_angle; rewrite minus_INR by exact H; field).
  rewrite cos_minus, cos_plus, sin_plus, <- rms_0_sqr.
  pose proof rms_0_pos. pose proof (sqrt_lt_R0 2 ltac:(lra)).
  field. split; lra.
Qed.

Lemma weight_pos k : 0 < weight k.
Proof. apply exp_pos. Qed.

(** Twelve places make a turn. *)
Lemma weight_mod k : weight k = weight (k mod 12).
Proof.
  unfold weight. do 3 f_equal.
  rewrite (Nat.div_mod k 12) at 1 by lia.
  rewrite plus_INR, mult_INR.
  replace (2 * PI * (INR 12 * INR (k / 12) + INR (k mod 12)) / 12 + value (query_angle m))
    with (2 * PI * INR (k mod 12) / 12 + value (query_angle m) + 2 * INR (k / 12) * PI)
    by (simpl (INR 12); field).
  apply cos_period.
Qed.

(** ** Sums *)

Lemma sum_app xs ys : sum (xs ++ ys) = sum xs + sum ys.
Proof. induction xs; simpl; [lra|]. rewrite IHxs; lra. Qed.

Lemma sum_ext {A} (f g : A -> R) xs :
  (forall x, In x xs -> f x = g x) -> sum (map f xs) = sum (map g xs).
Proof. intros H. f_equal. now apply map_ext_in. Qed.

Lemma sum_scale {A} (c : R) (f : A -> R) xs :
  sum (map (fun x => f x * c) xs) = sum (map f xs) * c.
Proof. induction xs; simpl; [lra|]. rewrite IHxs; lra. Qed.

Lemma sum_pos {A} (f : A -> R) xs :
  (forall x, 0 < f x) -> xs <> [] -> 0 < sum (map f xs).
Proof.
  intros H. destruct xs as [|x xs]; [easy|]. intros _. simpl.
  assert (0 <= sum (map f xs)) by (induction xs as [|y ys IH]; simpl; [lra|]; specialize (H y); lra).
  specialize (H x). lra.
Qed.

(** ** Attention *)

Lemma total_pos (tokens : list Z) : tokens <> [] ->
  0 < sum (map (fun p => weight (length tokens - 1 - p)) (seq 0 (length tokens))).
Proof.
  intros H. apply sum_pos; [intros; apply weight_pos|].
  destruct tokens; [easy|]. simpl. discriminate.
Qed.

Lemma attention_embedded (tokens : list Z) : tokens <> [] ->
  ch1 (add_attention m (embedded m tokens) (last_stream m tokens)) = seen_by tokens.
Proof.
  intros H. pose proof (total_pos tokens H) as Htotal.
  unfold add_attention. cbn [ch1]. unfold seen_by. f_equal.
  assert (Hscore : forall p, In p (seq 0 (length tokens)) ->
    exp (score m (norm (last_stream m tokens)) (norm (embed m p (nth p tokens 0%Z)))) =
    weight (length tokens - 1 - p)).
  { intros p Hp. apply in_seq in Hp. unfold last_stream, weight. f_equal.
    rewrite score_embed by lia. reflexivity. }
  unfold attention, embedded. rewrite !map_map.
  rewrite (sum_ext _ (fun p => weight (length tokens - 1 - p)) _ Hscore).
  erewrite (sum_ext _ (fun p => weight (length tokens - 1 - p) * sine (nth p tokens 0%Z) * / rms_0)).
  2: { intros p Hp. rewrite Hscore by exact Hp. unfold norm. cbn [ch1].
       rewrite rms_embed. simpl ch1. unfold sine, Rdiv. ring. }
  rewrite sum_scale. pose proof rms_0_pos. field. split; lra.
Qed.

(** ** The digit that wins *)

Lemma relu_scale x r : 0 < r -> relu (x / r) * r = relu x.
Proof.
  intros H. unfold relu. rewrite (Rmult_comm (Rmax _ _)), <- RmaxRmult by lra.
  f_equal; field; lra.
Qed.

Lemma rms_pos x : 0 < rms x.
Proof. apply sqrt_lt_R0. pose proof eps_pos. nra. Qed.

Theorem lead_wins (tokens : list Z) (s d : Z) : tokens <> [] ->
  0 < lead (nth (length tokens - 1) tokens 0%Z) (seen_by tokens) s d ->
  logits m tokens d < logits m tokens s.
Proof.
  intros Htokens Hlead.
  pose proof (attention_embedded tokens Htokens) as Hu.
  unfold logits. set (x := add_attention _ _ _) in *.
  set (z := nth _ tokens 0%Z) in *. set (u := seen_by tokens) in *.
  assert (H0 : ch0 x = cosine z) by reflexivity.
  assert (Hr : rms x = rms_1 z u).
  { unfold rms, rms_1. rewrite H0, Hu. f_equal. simpl ch2; simpl ch3.
    pose proof (cos2_sin2 (position_angle (length tokens - 1))). lra. }
  pose proof (rms_pos x) as Hr_pos. rewrite Hr in Hr_pos.
  set (y := add_mlp m x). pose proof (rms_pos y) as Hy_pos.
  assert (Hunit_0 : relu (value (up m) * ch0 (norm x) + ch1 (norm x)) * rms_1 z u = unit_0 z u).
  { unfold unit_0. rewrite <- (relu_scale (value (up m) * cosine z + u) (rms_1 z u) Hr_pos). do 2 f_equal.
    unfold norm. cbn [ch0 ch1]. rewrite Hr, H0, Hu. field. lra. }
  assert (Hunit_1 : relu (value (up m) * ch0 (norm x) - ch1 (norm x)) * rms_1 z u = unit_1 z u).
  { unfold unit_1. rewrite <- (relu_scale (value (up m) * cosine z - u) (rms_1 z u) Hr_pos). do 2 f_equal.
    unfold norm. cbn [ch0 ch1]. rewrite Hr, H0, Hu. field. lra. }
  assert (Hy0 : ch0 y = read_0 z u / rms_1 z u).
  { unfold y, add_mlp, read_0. cbn [ch0]. rewrite H0, <- Hunit_0, <- Hunit_1. field. lra. }
  assert (Hy1 : ch1 y = read_1 z u / rms_1 z u).
  { unfold y, add_mlp, read_1. cbn [ch1]. rewrite Hu, <- Hunit_0, <- Hunit_1. field. lra. }
  apply Rminus_gt_0_lt.
  replace (read_out m y s - read_out m y d) with (lead z u s d / (rms_1 z u * rms y)).
  - apply Rdiv_lt_0_compat; [exact Hlead|]. now apply Rmult_lt_0_compat.
  - unfold read_out, lead, norm. cbn [ch0 ch1]. fold y. rewrite Hy0, Hy1.
    unfold cosine, sine. field. split; lra.
Qed.

End Model.
