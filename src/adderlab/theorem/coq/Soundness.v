(** What the checker accepts adds. *)

Require Import Reals ZArith List Bool Lia Lra.
From Adder Require Import Transformer Digits Reduction Enclosure Checker.
Import ListNotations.

(** Real numbers of a digit given as a natural number, as the checker counts. *)
Definition cosine_of (m : model) (d : nat) : R := Reduction.cosine m (Z.of_nat d).
Definition sine_of (m : model) (d : nat) : R := Reduction.sine m (Z.of_nat d).

(** ** The tables *)

Lemma eps_encloses : encloses Checker.eps Transformer.eps.
Proof. apply div_encloses; try apply integer_encloses. lra. Qed.

Lemma angle_encloses m d :
  encloses (mul (sub (integer (Z.of_nat d)) (div (integer 9) (integer 2))) (dyadic_value (stride m)))
           (digit_angle m (Z.of_nat d)).
Proof.
  apply mul_encloses; [|apply dyadic_encloses].
  apply sub_encloses; [apply integer_encloses|].
  apply div_encloses; try apply integer_encloses. lra.
Qed.

Lemma cosine_encloses m d : encloses (cosine (tables_of m) d) (cosine_of m d).
Proof. apply tabulate_encloses. intros k. apply cos_encloses, angle_encloses. Qed.

Lemma sine_encloses m d : encloses (sine (tables_of m) d) (sine_of m d).
Proof. apply tabulate_encloses. intros k. apply sin_encloses, angle_encloses. Qed.

Lemma mean_encloses : encloses (add (div (integer 1) (integer 2)) eps) (1 / 2 + Transformer.eps).
Proof.
  apply add_encloses; [|apply eps_encloses].
  apply div_encloses; try apply integer_encloses. lra.
Qed.

Lemma weight_encloses m k : encloses (weight (tables_of m) k) (Reduction.weight m k).
Proof.
  apply tabulate_encloses. clear k. intros k. apply exp_encloses, div_encloses.
  - apply mul_encloses; [apply dyadic_encloses|].
    apply cos_encloses, add_encloses; [|apply dyadic_encloses].
    apply div_encloses; [|apply integer_encloses|lra].
    apply mul_encloses.
    + apply mul_encloses; [apply integer_encloses | apply pi_encloses].
    + rewrite INR_IZR_INZ. apply integer_encloses.
  - apply mul_encloses; [apply mean_encloses|]. apply sqrt_encloses, integer_encloses.
  - pose proof eps_pos. pose proof (sqrt_lt_R0 2 ltac:(lra)). apply Rgt_not_eq.
    apply Rmult_lt_0_compat; lra.
Qed.

Lemma in_ten d : (d < 10)%nat -> In d ten.
Proof. intros H. apply in_seq. lia. Qed.

Lemma any_sine_encloses m d : (d < 10)%nat -> encloses (any_sine (tables_of m)) (sine_of m d).
Proof. intros H. apply (hull_encloses _ d); [now apply in_ten | apply sine_encloses]. Qed.

Lemma pairs_where_encloses m p x y : (x < 10)%nat -> (y < 10)%nat -> p x y = true ->
  encloses (pairs_where (sine (tables_of m)) p) (sine_of m x + sine_of m y).
Proof.
  intros Hx Hy Hp. unfold pairs_where.
  apply (hull_encloses (fun xy => add (sine (tables_of m) (fst xy)) (sine (tables_of m) (snd xy))) (x, y)).
  - apply filter_In. split; [|exact Hp]. apply in_prod; now apply in_ten.
  - apply add_encloses; apply sine_encloses.
Qed.

Lemma pair_encloses m x y : (x < 10)%nat -> (y < 10)%nat ->
  encloses (pair (tables_of m) (x + y)) (sine_of m x + sine_of m y).
Proof.
  intros Hx Hy. cbn [tables_of pair]. rewrite tabulate_in by lia.
  apply pairs_where_encloses; try assumption. apply Nat.eqb_refl.
Qed.

Lemma previous_encloses m x y z c c' : (x < 10)%nat -> (y < 10)%nat -> (z < 10)%nat -> (c < 2)%nat ->
  (c' < 2)%nat -> (x + y + c' = z + 10 * c)%nat ->
  encloses (previous (tables_of m) z c) (sine_of m x + sine_of m y).
Proof.
  intros Hx Hy Hz Hc Hc' Hsum. cbn [tables_of previous].
  rewrite tabulate_in by exact Hz. rewrite tabulate_in by exact Hc.
  apply pairs_where_encloses; try assumption.
  apply orb_true_iff. rewrite !Nat.eqb_eq. lia.
Qed.

Lemma rivals_enclose m s d : (s < 10)%nat -> (d < 10)%nat -> d <> s ->
  exists by_, In by_ (rivals (tables_of m) s) /\
    encloses (fst by_) (cosine_of m s - cosine_of m d) /\
    encloses (snd by_) (sine_of m s - sine_of m d).
Proof.
  intros Hs Hd Hne.
  exists (sub (cosine (tables_of m) s) (cosine (tables_of m) d),
          sub (sine (tables_of m) s) (sine (tables_of m) d)).
  repeat split.
  - cbn [tables_of rivals]. rewrite tabulate_in by exact Hs.
    apply (in_map (fun d => (sub (cosine (tables_of m) s) (cosine (tables_of m) d),
                             sub (sine (tables_of m) s) (sine (tables_of m) d)))).
    apply filter_In. split; [now apply in_ten|]. apply negb_true_iff, Nat.eqb_neq. exact Hne.
  - apply sub_encloses; apply cosine_encloses.
  - apply sub_encloses; apply sine_encloses.
Qed.

Lemma out_encloses m : encloses (out_ (tables_of m)) (value (out m) / rms_0).
Proof.
  apply div_encloses; [apply dyadic_encloses | apply sqrt_encloses, mean_encloses |].
  pose proof rms_0_pos. lra.
Qed.

(** ** The head *)

Open Scope R_scope.

Lemma leads_correct m z s u x d : (s < 10)%nat -> (d < 10)%nat -> d <> s ->
  encloses u x -> leads (tables_of m) z s u = true ->
  0 < lead m (Z.of_nat z) x (Z.of_nat s) (Z.of_nat d).
Proof.
  intros Hs Hd Hne Hu H. unfold leads in H. pose proof (all_in _ _ H) as Hall. clear H.
  destruct (rivals_enclose m s d Hs Hd Hne) as (by_ & Hin & Hc & Hsin).
  pose proof (Hall by_ Hin) as H. cbv beta in H. clear Hall.
  pose proof (cosine_encloses m z) as Hz. set (t := tables_of m) in *.
  assert (Hr : encloses
    (sqrt (add (div (add (add (sqr (cosine t z)) (sqr u)) (integer 1)) (integer 4)) eps))
    (rms_1 m (Z.of_nat z) x)).
  { apply sqrt_encloses, add_encloses; [|apply eps_encloses].
    apply div_encloses; [|apply integer_encloses|lra].
    apply add_encloses; [|apply integer_encloses].
    apply add_encloses; apply sqr_encloses; assumption. }
  assert (Hup : encloses (mul (up_ t) (cosine t z)) (value (up m) * cosine_of m z)).
  { apply mul_encloses; [apply dyadic_encloses | exact Hz]. }
  assert (H0 : encloses (relu (add (mul (up_ t) (cosine t z)) u)) (unit_0 m (Z.of_nat z) x)).
  { apply relu_encloses, add_encloses; assumption. }
  assert (H1 : encloses (relu (sub (mul (up_ t) (cosine t z)) u)) (unit_1 m (Z.of_nat z) x)).
  { apply relu_encloses, sub_encloses; assumption. }
  unfold lead.
  replace (value (head m) * ((Reduction.cosine m (Z.of_nat s) - Reduction.cosine m (Z.of_nat d))
             * read_0 m (Z.of_nat z) x
           + (Reduction.sine m (Z.of_nat s) - Reduction.sine m (Z.of_nat d)) * read_1 m (Z.of_nat z) x))
    with ((cosine_of m s - cosine_of m d) * (value (head m) * read_0 m (Z.of_nat z) x)
          + (sine_of m s - sine_of m d) * (value (head m) * read_1 m (Z.of_nat z) x))
    by (unfold cosine_of, sine_of; ring).
  refine (positive_correct _ _ _ H).
  apply add_encloses; apply mul_encloses; try assumption;
    (apply mul_encloses; [apply dyadic_encloses|]); apply add_encloses; apply mul_encloses;
    try assumption; try apply dyadic_encloses;
    first [apply add_encloses | apply sub_encloses]; assumption.
Qed.

Lemma leads_on_correct m z s x d : (s < 10)%nat -> (d < 10)%nat -> d <> s ->
  forall cuts u, encloses u x -> leads_on (tables_of m) z s cuts u = true ->
  0 < lead m (Z.of_nat z) x (Z.of_nat s) (Z.of_nat d).
Proof.
  intros Hs Hd Hne. induction cuts as [|cuts IH]; intros u Hu H; simpl in H;
    destruct (leads (tables_of m) z s u) eqn:E; try discriminate;
    try (now apply (leads_correct m z s u x d)).
  destruct (leads_on (tables_of m) z s cuts (fst (halves u))) eqn:E1; try discriminate.
  destruct (halves_enclose u x Hu) as [Hhalf|Hhalf]; eauto.
Qed.

(** ** The attention *)

Lemma sum_filter {A} (f : A -> R) (p : A -> bool) xs :
  sum (map f xs) = sum (map f (filter p xs)) + sum (map f (filter (fun x => negb (p x)) xs)).
Proof. induction xs as [|x xs IH]; simpl; [lra|]. destruct (p x); simpl; lra. Qed.

Lemma near_positions n : In n (seq 1 11) ->
  filter (near n) (read_at n) = [n - 1; n; 11 + n; 12 + n; 23 + n]%nat.
Proof. intros H. repeat (destruct H as [<-|H]; [reflexivity|]). destruct H. Qed.

Lemma near_distances n : In n (seq 1 11) ->
  (distance_mod n (n - 1) = 0 /\ distance_mod n n = 11 /\ distance_mod n (11 + n) = 0
   /\ distance_mod n (12 + n) = 11 /\ distance_mod n (23 + n) = 0)%nat.
Proof. intros H. repeat (destruct H as [<-|H]; [now repeat split|]). destruct H. Qed.

(** The parts of a case, for any tables. *)
Lemma factor_from (t : tables) n out (w : nat -> R) : encloses (out_ t) out ->
  (forall k, encloses (weight t k) (w k)) ->
  0 < sum (map (fun p => w (distance_mod n p)) (read_at n)) ->
  encloses (factor t n) (out / sum (map (fun p => w (distance_mod n p)) (read_at n))).
Proof.
  intros Hout Hw Hpos. apply div_encloses; [exact Hout | | now apply Rgt_not_eq].
  apply total_encloses. intros p _. apply Hw.
Qed.

Lemma rest_from (t : tables) n fx (term : nat -> R) : encloses (factor t n) fx ->
  (forall p, In p (far n) -> encloses
     (mul (weight t (distance_mod n p)) (if separator p then sine t 0 else any_sine t)) (term p)) ->
  encloses (rest t n) (fx * sum (map term (far n))).
Proof. intros Hf H. apply mul_encloses; [exact Hf|]. apply total_encloses. exact H. Qed.

Lemma seen_from (t : tables) near_0 near_11 r z c s x0 x11 rx zx px sx :
  encloses near_0 x0 -> encloses near_11 x11 -> encloses r rx ->
  encloses (sine t z) zx -> encloses (previous t z c) px -> encloses (pair t s) sx ->
  encloses (seen t near_0 near_11 r z c s) (zx + (rx + x0 * (px + zx) + x11 * sx)).
Proof.
  intros. apply add_encloses; [assumption|].
  apply add_encloses; [apply add_encloses|]; try assumption; apply mul_encloses; try assumption.
  now apply add_encloses.
Qed.

Lemma distribute (z f r w0 p w11 s : R) :
  z + f * (r + w0 * p + w11 * s) = z + (f * r + f * w0 * p + f * w11 * s).
Proof. ring. Qed.

Section Step.
Variables (m : model) (n : nat) (tokens : list Z).
Hypothesis Hn : In n (seq 1 11).
Hypothesis Hlength : length tokens = (24 + n)%nat.

(** Tokens are digits, those of separators zero. *)
Variable token : nat -> nat.
Hypothesis Htokens : forall p, (p < 24 + n)%nat -> nth p tokens 0%Z = Z.of_nat (token p).
Hypothesis Hdigits : forall p, (p < 24 + n)%nat -> (token p < 10)%nat.
Hypothesis Hseparators : forall p, (p < 24 + n)%nat -> separator p = true -> token p = 0%nat.

(** The carries into columns [n - 1] and [n]. *)
Variables c' c : nat.
Hypotheses (Hc' : (c' < 2)%nat) (Hc : (c < 2)%nat).
Hypothesis Hcolumn : (token (n - 1) + token (11 + n) + c' = token (23 + n) + 10 * c)%nat.

Let term p := Reduction.weight m (distance_mod n p) * sine_of m (token p).

Let factor_value :=
  value (out m) / rms_0 / sum (map (fun p => Reduction.weight m (distance_mod n p)) (read_at n)).

Lemma seen_by_terms :
  seen_by m tokens = sine_of m (token (23 + n)) + factor_value * sum (map term (read_at n)).
Proof.
  unfold factor_value.
  assert (Hw : forall p, Reduction.weight m (length tokens - 1 - p)
                         = Reduction.weight m (distance_mod n p)).
  { intros p. rewrite weight_mod. unfold distance_mod. do 2 f_equal. lia. }
  unfold seen_by. cbv zeta. rewrite (sum_ext _ _ _ (fun p _ => Hw p)).
  rewrite (sum_ext (fun p => Reduction.weight m (length tokens - 1 - p)
                            * Reduction.sine m (nth p tokens 0%Z)) term).
  2: { intros p Hp. apply in_seq in Hp. unfold term. rewrite Hw, Htokens by lia. reflexivity. }
  rewrite Hlength. replace (24 + n - 1)%nat with (23 + n)%nat by lia.
  rewrite Htokens by lia. unfold sine_of, read_at.
  pose proof rms_0_pos.
  assert (0 < sum (map (fun p => Reduction.weight m (distance_mod n p)) (seq 0 (24 + n)))).
  { apply sum_pos; [intros; apply weight_pos | discriminate]. }
  field. split; lra.
Qed.

Lemma terms_split :
  sum (map term (read_at n)) =
  sum (map term (far n))
  + Reduction.weight m 0 * (sine_of m (token (n - 1)) + sine_of m (token (11 + n))
                            + sine_of m (token (23 + n)))
  + Reduction.weight m 11 * (sine_of m (token n) + sine_of m (token (12 + n))).
Proof.
  rewrite (sum_filter term (near n)), near_positions by exact Hn. unfold far.
  destruct (near_distances n Hn) as (D1 & D2 & D3 & D4 & D5).
  generalize (sum (map term (filter (fun p => negb (near n p)) (read_at n)))). intros others.
  unfold term. cbn [map sum fold_right]. rewrite D1, D2, D3, D4, D5. ring.
Qed.

Lemma factor_encloses : encloses (factor (tables_of m) n) factor_value.
Proof.
  apply factor_from; [apply out_encloses | intros; apply weight_encloses |].
  apply sum_pos; [intros; apply weight_pos | discriminate].
Qed.

Lemma toward_encloses k :
  encloses (toward (tables_of m) n k) (factor_value * Reduction.weight m k).
Proof. apply mul_encloses; [apply factor_encloses | apply weight_encloses]. Qed.

Lemma rest_encloses : encloses (rest (tables_of m) n) (factor_value * sum (map term (far n))).
Proof.
  apply rest_from; [apply factor_encloses|]. intros p Hp. apply far_bound in Hp.
  apply mul_encloses; [apply weight_encloses|].
  destruct (separator p) eqn:E.
  - rewrite Hseparators by (lia || assumption). apply sine_encloses.
  - apply any_sine_encloses, Hdigits. lia.
Qed.

Lemma seen_encloses steps : (1 <= n < 12)%nat -> In n steps ->
  encloses (seen (tables_of m) (hull (map (fun n => toward (tables_of m) n 0) steps))
                 (hull (map (fun n => toward (tables_of m) n 11) steps))
                 (hull (map (rest (tables_of m)) steps))
                 (token (23 + n)) c (token n + token (12 + n)))
           (seen_by m tokens).
Proof.
  intros Hbounds Hin.
  rewrite seen_by_terms, terms_split, distribute.
  apply seen_from.
  - apply (hull_encloses (fun n => toward (tables_of m) n 0) n _ _ Hin), toward_encloses.
  - apply (hull_encloses (fun n => toward (tables_of m) n 11) n _ _ Hin), toward_encloses.
  - apply (hull_encloses (rest (tables_of m)) n _ _ Hin), rest_encloses.
  - apply sine_encloses.
  - apply (previous_encloses m _ _ _ _ c'); try assumption; apply Hdigits; lia.
  - apply pair_encloses; apply Hdigits; lia.
Qed.

Theorem step_correct d : check m = true ->
  (d < 10)%nat -> d <> ((token n + token (12 + n) + c) mod 10)%nat ->
  logits m tokens (Z.of_nat d)
  < logits m tokens (Z.of_nat ((token n + token (12 + n) + c) mod 10)).
Proof.
  intros Hcheck Hd Hne.
  assert (Hbounds : (1 <= n < 12)%nat) by (apply in_seq in Hn; lia).
  assert (Hsum : In (token n + token (12 + n))%nat (sums n)).
  { unfold sums. destruct (Nat.eqb_spec n 11) as [E|Hn11].
    - rewrite (Hseparators n), (Hseparators (12 + n)) by (rewrite ?E; lia || reflexivity). now left.
    - apply in_seq. pose proof (Hdigits n ltac:(lia)). pose proof (Hdigits (12 + n)%nat ltac:(lia)). lia. }
  assert (Hz : In (token (23 + n)%nat) ten) by (apply in_ten, Hdigits; lia).
  assert (Hcin : In c [0; 1]%nat) by (simpl; lia).
  destruct (check_cases m n Hcheck Hn) as (steps & Hin & Hsteps).
  pose proof (check_steps_cases _ _ _ _ _ _ Hsteps Hin Hz Hcin Hsum) as Hleads.
  apply lead_wins; [intros E; rewrite E in Hlength; discriminate|].
  rewrite Hlength. replace (24 + n - 1)%nat with (23 + n)%nat by lia.
  rewrite Htokens by lia.
  apply (leads_on_correct m _ _ _ d (Nat.mod_upper_bound _ 10 ltac:(discriminate)) Hd Hne 12 _
           (seen_encloses steps Hbounds Hin) Hleads).
Qed.

End Step.

(** ** All steps *)

Open Scope Z_scope.

Section Addition.
Variables (m : model) (a b : Z).
Hypothesis Hcheck : check m = true.
Hypotheses (Ha : 0 <= a < 10 ^ 10) (Hb : 0 <= b < 10 ^ 10).

(** With a zero written below their units, operands start at the first token, and the last separator
    is the sum's digit 0. *)
Definition after (count : nat) : list Z :=
  digits 12 (10 * a) ++ digits 12 (10 * b) ++ digits count (10 * a + 10 * b).

Lemma digits_shifted k x : digits (S k) (10 * x) = 0 :: digits k x.
Proof.
  cbn [digits]. rewrite (Z.mul_comm 10 x), Z.mod_mul, Z.div_mul by discriminate. reflexivity.
Qed.

Lemma digits_padded x : 0 <= x < 10 ^ 10 -> digits 12 (10 * x) = 0 :: digits 10 x ++ [0].
Proof. intros H. now rewrite digits_shifted, digits_snoc, (digit_high 10). Qed.

Lemma prompt_after : prompt a b = after 1.
Proof.
  unfold prompt, after. rewrite !digits_padded by assumption.
  replace (10 * a + 10 * b) with (10 * (a + b)) by ring. rewrite digits_shifted.
  generalize (digits 10 a) (digits 10 b). intros.
  cbn [digits app]. rewrite <- !app_assoc. reflexivity.
Qed.

Definition token_at (p : nat) : Z :=
  if (p <? 12)%nat then digit p (10 * a)
  else if (p <? 24)%nat then digit (p - 12) (10 * b)
  else digit (p - 24) (10 * a + 10 * b).

Lemma nth_after n p : (p < 24 + n)%nat -> nth p (after n) 0 = token_at p.
Proof.
  intros H. unfold after, token_at.
  destruct (Nat.ltb_spec p 12).
  - rewrite app_nth1 by (rewrite length_digits; lia). now apply nth_digits.
  - rewrite app_nth2 by (rewrite length_digits; lia). rewrite length_digits.
    destruct (Nat.ltb_spec p 24).
    + rewrite app_nth1 by (rewrite length_digits; lia). apply nth_digits. lia.
    + rewrite app_nth2 by (rewrite length_digits; lia). rewrite length_digits.
      replace (p - 12 - 12)%nat with (p - 24)%nat by lia. apply nth_digits. lia.
Qed.

Lemma token_at_range p : 0 <= token_at p <= 9.
Proof.
  unfold token_at. destruct (p <? 12)%nat; [|destruct (p <? 24)%nat]; apply digit_range.
Qed.

Lemma digit_0_shifted x : digit 0 (10 * x) = 0.
Proof. unfold digit. rewrite Z.div_1_r, Z.mul_comm. now apply Z.mod_mul. Qed.

Lemma digit_11_shifted x : 0 <= x < 10 ^ 10 -> digit 11 (10 * x) = 0.
Proof. intros H. apply digit_high. change (10 ^ Z.of_nat 11) with (10 * 10 ^ 10). lia. Qed.

Lemma token_at_separator p : (p < 35)%nat -> separator p = true -> token_at p = 0.
Proof.
  intros Hp Hs.
  assert (H : In p [0; 11; 12; 23; 24]%nat).
  { do 35 (destruct p as [|p]; [first [discriminate Hs | simpl; tauto]|]). lia. }
  destruct H as [<-|[<-|[<-|[<-|[<-|[]]]]]].
  - exact (digit_0_shifted a).
  - exact (digit_11_shifted a Ha).
  - exact (digit_0_shifted b).
  - exact (digit_11_shifted b Hb).
  - change (digit 0 (10 * a + 10 * b) = 0).
    replace (10 * a + 10 * b) with (10 * (a + b)) by ring. apply digit_0_shifted.
Qed.

(** Asked for digit [n], the transformer prefers it to every other one: there are no ties. *)
Theorem right_digit_wins n d : In n (seq 1 11) ->
  0 <= d <= 9 -> d <> digit n (10 * a + 10 * b) ->
  (logits m (after n) d < logits m (after n) (digit n (10 * a + 10 * b)))%R.
Proof.
  intros Hn Hd Hne.
  assert (Hbounds : (1 <= n < 12)%nat) by (apply in_seq in Hn; lia).
  set (token p := Z.to_nat (token_at p)).
  assert (Htoken : forall p, Z.of_nat (token p) = token_at p).
  { intros p. apply Z2Nat.id. apply token_at_range. }
  assert (Hx : token_at n = digit n (10 * a)).
  { unfold token_at. destruct (Nat.ltb_spec n 12); [reflexivity|lia]. }
  assert (Hy : token_at (12 + n) = digit n (10 * b)).
  { unfold token_at. destruct (Nat.ltb_spec (12 + n) 12); [lia|].
    destruct (Nat.ltb_spec (12 + n) 24); [|lia]. now replace (12 + n - 12)%nat with n by lia. }
  assert (Hx' : token_at (n - 1) = digit (n - 1) (10 * a)).
  { unfold token_at. destruct (Nat.ltb_spec (n - 1) 12); [reflexivity|lia]. }
  assert (Hy' : token_at (11 + n) = digit (n - 1) (10 * b)).
  { unfold token_at. destruct (Nat.ltb_spec (11 + n) 12); [lia|].
    destruct (Nat.ltb_spec (11 + n) 24); [|lia].
    now replace (11 + n - 12)%nat with (n - 1)%nat by lia. }
  assert (Hz : token_at (23 + n) = digit (n - 1) (10 * a + 10 * b)).
  { unfold token_at. destruct (Nat.ltb_spec (23 + n) 12); [lia|].
    destruct (Nat.ltb_spec (23 + n) 24); [lia|].
    now replace (23 + n - 24)%nat with (n - 1)%nat by lia. }
  pose proof (carry_range (n - 1) (10 * a) (10 * b)) as Hc'.
  pose proof (carry_range n (10 * a) (10 * b)) as Hc.
  pose proof (column (n - 1) (10 * a) (10 * b)) as Hcolumn.
  replace (S (n - 1)) with n in Hcolumn by lia.
  set (c' := carry (n - 1) (10 * a) (10 * b)) in *. set (c := carry n (10 * a) (10 * b)) in *.
  pose proof (step_correct m n (after n) Hn) as Hstep.
  specialize (Hstep ltac:(unfold after; rewrite !app_length, !length_digits; lia) token).
  specialize (Hstep ltac:(intros p Hp; rewrite Htoken; now apply nth_after)).
  specialize (Hstep ltac:(intros p Hp; pose proof (token_at_range p); unfold token; lia)).
  specialize (Hstep ltac:(intros p Hp Hs; unfold token; now rewrite token_at_separator by (lia || exact Hs))).
  specialize (Hstep (Z.to_nat c') (Z.to_nat c) ltac:(lia) ltac:(lia)).
  specialize (Hstep ltac:(apply Nat2Z.inj; rewrite !Nat2Z.inj_add, Nat2Z.inj_mul, !Htoken, !Z2Nat.id by lia;
                          rewrite Hx', Hy', Hz; exact Hcolumn)).
  specialize (Hstep (Z.to_nat d) Hcheck).
  assert (Hs : Z.of_nat ((token n + token (12 + n) + Z.to_nat c) mod 10)%nat
               = digit n (10 * a + 10 * b)).
  { rewrite Nat2Z.inj_mod, !Nat2Z.inj_add, !Htoken, Z2Nat.id, Hx, Hy by lia.
    symmetry. apply digit_add. }
  rewrite Hs, Z2Nat.id in Hstep by lia. apply Hstep; lia.
Qed.

Lemma argmax_of_best f s : 0 <= s <= 9 ->
  (forall d, 0 <= d <= 9 -> d <> s -> (f d < f s)%R) -> argmax f = s.
Proof.
  intros Hs H.
  assert (G : forall ds best, (forall d, In d ds -> 0 <= d <= 9) -> 0 <= best <= 9 ->
    In s (best :: ds) ->
    fold_left (fun best d => if Rlt_dec (f best) (f d) then d else best) ds best = s).
  { induction ds as [|d ds IH]; intros best Hds Hbest Hin; simpl.
    - now destruct Hin.
    - assert (Hd : 0 <= d <= 9) by (apply Hds; now left).
      assert (Hds' : forall d, In d ds -> 0 <= d <= 9) by (intros; apply Hds; now right).
      destruct (Rlt_dec (f best) (f d)) as [Hlt|Hge].
      + apply IH; [exact Hds' | exact Hd |].
        destruct Hin as [<-|Hin]; [|exact Hin].
        destruct (Z.eq_dec d best) as [->|Hne]; [now left|]. specialize (H d Hd Hne). lra.
      + apply IH; [exact Hds' | exact Hbest |].
        destruct Hin as [<-|[<-|Hin]]; [now left| |now right].
        destruct (Z.eq_dec best d) as [->|Hne]; [now left|]. specialize (H best Hbest Hne). contradiction. }
  apply G.
  - intros d Hd. apply in_map_iff in Hd. destruct Hd as (k & <- & Hk). apply in_seq in Hk. lia.
  - lia.
  - right. apply in_map_iff. exists (Z.to_nat s). split; [lia|]. apply in_seq. lia.
Qed.

Lemma after_S n : after n ++ [digit n (10 * a + 10 * b)] = after (S n).
Proof. unfold after. now rewrite (digits_snoc n), !app_assoc. Qed.

Lemma generate_right : forall steps n, (1 <= n)%nat -> (n + steps = 12)%nat ->
  generate m (after n) steps = map (fun k => digit k (10 * a + 10 * b)) (seq n steps).
Proof.
  induction steps as [|steps IH]; intros n H1 Hn; [reflexivity|].
  assert (Hargmax : argmax (logits m (after n)) = digit n (10 * a + 10 * b)).
  { apply argmax_of_best; [apply digit_range|].
    intros d Hd Hne. apply right_digit_wins; try assumption. apply in_seq. lia. }
  cbn [generate]. rewrite Hargmax, after_S, IH by lia. reflexivity.
Qed.

Lemma digits_as_map k x : digits k x = map (fun j => digit j x) (seq 0 k).
Proof.
  induction k; [reflexivity|]. rewrite digits_snoc, IHk, seq_S, map_app. reflexivity.
Qed.

Theorem addition_correct : decode m a b = a + b.
Proof.
  unfold decode. rewrite prompt_after, generate_right by lia.
  replace (10 * a + 10 * b) with (10 * (a + b)) by ring.
  rewrite <- seq_shift, map_map.
  rewrite (map_ext _ (fun j => digit j (a + b))).
  2: { intros j. rewrite digit_S, (Z.mul_comm 10), Z.div_mul; easy. }
  rewrite <- digits_as_map, number_digits. apply Z.mod_small.
  change (10 ^ Z.of_nat 11) with (10 * 10 ^ 10). lia.
Qed.

End Addition.
