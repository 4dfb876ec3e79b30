(** Interval arithmetic: operations on enclosures of real numbers, and that they enclose.

    The intervals are those of the library Interval, their ends integers times powers of two, so that
    they compute inside Coq without any primitive number. *)

Require Import Reals ZArith List Bool Lia Lra.
From Interval Require Import Real.Xreal Interval.Interval Interval.Float_full.
From Interval Require Import Float.Basic Float.Sig Float.Specific_stdz Float.Specific_ops.
From Adder Require Import Transformer Reduction.
Import ListNotations.
Open Scope R_scope.

Module F := SpecificFloat StdZRadix2.
Module I := FloatIntervalFull F.

(** Bits that an operation keeps. *)
Definition precision := F.PtoP 40.

Definition enclosure : Type := I.type.

Definition encloses (xi : enclosure) (x : R) : Prop := contains (I.convert xi) (Xreal x).

(** Everything. *)
Definition anything : enclosure := I.nai.

Definition integer (n : Z) : enclosure := I.fromZ precision n.
Definition pi : enclosure := I.pi precision.
Definition neg : enclosure -> enclosure := I.neg.
Definition add : enclosure -> enclosure -> enclosure := I.add precision.
Definition sub : enclosure -> enclosure -> enclosure := I.sub precision.
Definition mul : enclosure -> enclosure -> enclosure := I.mul precision.
Definition div : enclosure -> enclosure -> enclosure := I.div precision.
Definition sqr : enclosure -> enclosure := I.sqr precision.
Definition sqrt : enclosure -> enclosure := I.sqrt precision.
Definition cos : enclosure -> enclosure := I.cos precision.
Definition sin : enclosure -> enclosure := I.sin precision.
Definition exp : enclosure -> enclosure := I.exp precision.

Definition relu (xi : enclosure) : enclosure :=
  match I.sign_large xi with
  | Xgt => xi
  | Xund => I.meet (I.join xi I.zero) (I.upper_extent I.zero)
  | _ => I.zero
  end.

Definition positive (xi : enclosure) : bool :=
  match I.sign_strict xi with Xgt => true | _ => false end.

Definition halves (xi : enclosure) : enclosure * enclosure := I.bisect xi.

Definition dyadic_value (x : dyadic) : enclosure :=
  div (integer (numerator x)) (integer (2 ^ Z.of_nat (places x))).

Fixpoint total (xs : list enclosure) : enclosure :=
  match xs with [] => I.zero | x :: rest => add x (total rest) end.

(** One enclosure of all numbers of some enclosures. *)
Fixpoint hull (xs : list enclosure) : enclosure :=
  match xs with [] => anything | [x] => x | x :: rest => I.join x (hull rest) end.

(** [f 0, .., f (count - 1)], computed once. *)
Definition tabulate {A} (default : A) (count : nat) (f : nat -> A) : nat -> A :=
  let table := map f (seq 0 count) in fun k => nth k table default.

(** ** They enclose *)

Lemma anything_encloses x : encloses anything x.
Proof. unfold encloses, anything. now rewrite I.nai_correct. Qed.

Lemma integer_encloses n : encloses (integer n) (IZR n).
Proof. apply I.fromZ_correct. Qed.

Lemma pi_encloses : encloses pi PI.
Proof. apply I.pi_correct. Qed.

Lemma zero_encloses : encloses I.zero 0.
Proof. unfold encloses. rewrite I.zero_correct. simpl. lra. Qed.

Section Operations.
Variables (xi yi : enclosure) (x y : R).
Hypotheses (Hx : encloses xi x) (Hy : encloses yi y).

Lemma neg_encloses : encloses (neg xi) (- x).
Proof. exact (I.neg_correct xi (Xreal x) Hx). Qed.

Lemma add_encloses : encloses (add xi yi) (x + y).
Proof. exact (I.add_correct precision xi yi (Xreal x) (Xreal y) Hx Hy). Qed.

Lemma sub_encloses : encloses (sub xi yi) (x - y).
Proof. exact (I.sub_correct precision xi yi (Xreal x) (Xreal y) Hx Hy). Qed.

Lemma mul_encloses : encloses (mul xi yi) (x * y).
Proof. exact (I.mul_correct precision xi yi (Xreal x) (Xreal y) Hx Hy). Qed.

Lemma div_encloses : y <> 0 -> encloses (div xi yi) (x / y).
Proof.
  intros H. pose proof (I.div_correct precision xi yi (Xreal x) (Xreal y) Hx Hy) as D.
  simpl in D. unfold Xdiv' in D. now rewrite is_zero_false in D.
Qed.

Lemma sqr_encloses : encloses (sqr xi) (x ^ 2).
Proof.
  pose proof (I.sqr_correct precision xi (Xreal x) Hx) as D. simpl in D.
  unfold encloses. replace (x ^ 2) with (x * x) by ring. exact D.
Qed.

Lemma sqrt_encloses : encloses (sqrt xi) (R_sqrt.sqrt x).
Proof. exact (I.sqrt_correct precision xi (Xreal x) Hx). Qed.

Lemma cos_encloses : encloses (cos xi) (Rtrigo_def.cos x).
Proof. exact (I.cos_correct precision xi (Xreal x) Hx). Qed.

Lemma sin_encloses : encloses (sin xi) (Rtrigo_def.sin x).
Proof. exact (I.sin_correct precision xi (Xreal x) Hx). Qed.

Lemma exp_encloses : encloses (exp xi) (Rtrigo_def.exp x).
Proof. exact (I.exp_correct precision xi (Xreal x) Hx). Qed.

Lemma relu_encloses : encloses (relu xi) (Transformer.relu x).
Proof.
  unfold relu, Transformer.relu. pose proof (I.sign_large_correct xi) as S.
  destruct (I.sign_large xi).
  - specialize (S (Xreal x) Hx). injection S as ->. rewrite Rmax_left by lra. apply zero_encloses.
  - destruct (S (Xreal x) Hx) as [_ H]. simpl in H. rewrite Rmax_right by exact H. apply zero_encloses.
  - destruct (S (Xreal x) Hx) as [_ H]. simpl in H. rewrite Rmax_left by exact H. exact Hx.
  - apply I.meet_correct.
    + apply I.join_correct. destruct (Rle_dec 0 x).
      * left. rewrite Rmax_left by lra. exact Hx.
      * right. rewrite Rmax_right by lra. apply zero_encloses.
    + apply (I.upper_extent_correct _ _ 0); [apply zero_encloses | apply Rmax_r].
Qed.

Lemma positive_correct : positive xi = true -> 0 < x.
Proof.
  unfold positive. pose proof (I.sign_strict_correct xi) as S.
  destruct (I.sign_strict xi); try discriminate. intros _.
  destruct (S (Xreal x) Hx) as [_ H]. exact H.
Qed.

Lemma halves_enclose : encloses (fst (halves xi)) x \/ encloses (snd (halves xi)) x.
Proof. exact (I.bisect_correct xi (Xreal x) Hx). Qed.

End Operations.

Lemma dyadic_encloses x : encloses (dyadic_value x) (value x).
Proof.
  assert (H : IZR (2 ^ Z.of_nat (places x)) = 2 ^ places x).
  { rewrite <- pow_IZR. reflexivity. }
  unfold value. rewrite <- H. apply div_encloses; try apply integer_encloses.
  rewrite H. apply pow_nonzero. lra.
Qed.

Lemma total_encloses {A} (f : A -> enclosure) (g : A -> R) xs :
  (forall x, In x xs -> encloses (f x) (g x)) -> encloses (total (map f xs)) (sum (map g xs)).
Proof.
  induction xs as [|x xs IH]; intros H; simpl.
  - apply zero_encloses.
  - apply add_encloses; [apply H; now left | apply IH; intros; apply H; now right].
Qed.

Lemma hull_encloses {A} (f : A -> enclosure) x a xs :
  In x xs -> encloses (f x) a -> encloses (hull (map f xs)) a.
Proof.
  intros Hin Ha. induction xs as [|y xs IH]; [easy|].
  destruct xs as [|y' xs].
  - destruct Hin as [->|[]]. exact Ha.
  - change (encloses (I.join (f y) (hull (map f (y' :: xs)))) a).
    apply I.join_correct. destruct Hin as [->|Hin]; [left; exact Ha | right; now apply IH].
Qed.

Lemma tabulate_in {A} (default : A) count f k : (k < count)%nat -> tabulate default count f k = f k.
Proof.
  intros H. unfold tabulate. rewrite (nth_indep _ default (f 0%nat)) by now rewrite map_length, seq_length.
  rewrite map_nth, seq_nth by exact H. reflexivity.
Qed.

Lemma tabulate_encloses count f (g : nat -> R) k :
  (forall k, encloses (f k) (g k)) -> encloses (tabulate anything count f k) (g k).
Proof.
  intros H. destruct (Nat.lt_ge_cases k count) as [Hk|Hk].
  - rewrite tabulate_in by exact Hk. apply H.
  - unfold tabulate. rewrite nth_overflow by now rewrite map_length, seq_length.
    apply anything_encloses.
Qed.

(** Two terms are never compared by computing intervals; [vm_compute] is told to. *)
Global Opaque integer pi neg add sub mul div sqr sqrt cos sin exp relu positive halves
  dyadic_value anything total hull tabulate.
