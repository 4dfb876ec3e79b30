(** Digits, carries and sums: integer arithmetic alone. *)

Require Import ZArith List Lia.
From Adder Require Import Transformer.
Import ListNotations.
Open Scope Z_scope.

Definition digit (k : nat) (x : Z) : Z := (x / 10 ^ Z.of_nat k) mod 10.

Lemma digit_range k x : 0 <= digit k x <= 9.
Proof. unfold digit. pose proof (Z.mod_pos_bound (x / 10 ^ Z.of_nat k) 10). lia. Qed.

Lemma pow10_pos (k : nat) : 0 < 10 ^ Z.of_nat k.
Proof. apply Z.pow_pos_nonneg; lia. Qed.

Lemma pow10_S (k : nat) : 10 ^ Z.of_nat (S k) = 10 ^ Z.of_nat k * 10.
Proof. rewrite Nat2Z.inj_succ, Z.pow_succ_r; lia. Qed.

Lemma digit_S k x : digit (S k) x = digit k (x / 10).
Proof.
  unfold digit. rewrite Nat2Z.inj_succ, Z.pow_succ_r, Zdiv_Zdiv; try lia.
Qed.

Lemma length_digits n x : length (digits n x) = n.
Proof. revert x; induction n; intros; simpl; auto. Qed.

Lemma nth_digits n : forall k x, (k < n)%nat -> nth k (digits n x) 0 = digit k x.
Proof.
  induction n; intros k x H; [lia|]. destruct k; simpl.
  - unfold digit. now rewrite Z.div_1_r.
  - rewrite IHn by lia. now rewrite digit_S.
Qed.

Lemma digits_snoc n : forall x, digits (S n) x = digits n x ++ [digit n x].
Proof.
  induction n; intros x.
  - simpl. unfold digit. now rewrite Z.div_1_r.
  - change (digits (S (S n)) x) with (x mod 10 :: digits (S n) (x / 10)).
    rewrite IHn, digit_S. reflexivity.
Qed.

Lemma number_digits n : forall x, number (digits n x) = x mod 10 ^ Z.of_nat n.
Proof.
  induction n; intros x.
  - simpl. now rewrite Z.mod_1_r.
  - cbn [digits number]. rewrite IHn, pow10_S, (Z.mul_comm _ 10), Z.rem_mul_r; try lia.
Qed.

Lemma digit_high k x : 0 <= x < 10 ^ Z.of_nat k -> digit k x = 0.
Proof. intros H. unfold digit. now rewrite Z.div_small. Qed.

(** The carry into column k of x + y. *)
Definition carry (k : nat) (x y : Z) : Z :=
  (x mod 10 ^ Z.of_nat k + y mod 10 ^ Z.of_nat k) / 10 ^ Z.of_nat k.

Lemma carry_range k x y : 0 <= carry k x y <= 1.
Proof.
  unfold carry. pose proof (pow10_pos k) as H. set (q := 10 ^ Z.of_nat k) in *.
  pose proof (Z.mod_pos_bound x q H). pose proof (Z.mod_pos_bound y q H).
  split; [apply Z.div_pos; lia|].
  apply Z.lt_succ_r, Z.div_lt_upper_bound; lia.
Qed.

Lemma carry_S k x y : carry (S k) x y = (digit k x + digit k y + carry k x y) / 10.
Proof.
  unfold carry, digit. rewrite pow10_S. pose proof (pow10_pos k) as H.
  set (q := 10 ^ Z.of_nat k) in *.
  rewrite !Z.rem_mul_r by lia. rewrite <- Zdiv_Zdiv by lia.
  replace (x mod q + q * ((x / q) mod 10) + (y mod q + q * ((y / q) mod 10)))
    with (x mod q + y mod q + ((x / q) mod 10 + (y / q) mod 10) * q) by ring.
  rewrite Z.div_add by lia. f_equal. ring.
Qed.

Lemma digit_add k x y : digit k (x + y) = (digit k x + digit k y + carry k x y) mod 10.
Proof.
  unfold carry, digit. pose proof (pow10_pos k) as H. set (q := 10 ^ Z.of_nat k) in *.
  rewrite (Z.div_mod x q) at 1 by lia. rewrite (Z.div_mod y q) at 1 by lia.
  replace (q * (x / q) + x mod q + (q * (y / q) + y mod q))
    with (x mod q + y mod q + (x / q + y / q) * q) by ring.
  rewrite Z.div_add by lia.
  rewrite (Z.add_comm ((x mod q + y mod q) / q)).
  rewrite <- (Z.add_mod_idemp_l (x / q + y / q)) by lia.
  rewrite (Z.add_mod (x / q) (y / q)) by lia.
  now rewrite Z.add_mod_idemp_l by lia.
Qed.

(** What a column knows: its operands' digits fix the sum's digit and the carry out. *)
Lemma column k x y :
  digit k x + digit k y + carry k x y = digit k (x + y) + 10 * carry (S k) x y.
Proof.
  rewrite digit_add, carry_S.
  rewrite (Z.div_mod (digit k x + digit k y + carry k x y) 10) at 1 by lia. ring.
Qed.
