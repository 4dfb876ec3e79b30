(** A program that decides whether a model adds, by interval arithmetic over a few hundred cases.

    Asked for digit [n] of 10 a + 10 b (digit 0 is that of the last separator, a zero), the transformer
    has before it digit [n - 1], its last token [z]. A case fixes [z], the carry [c] into column [n], and
    the sum [s] of the two digits of column [n]. Of column [n - 1] it is known that its digits and some
    carry make [z + 10 c]; digits of all other columns may be anything. *)

Require Import ZArith List Bool Lia.
From Adder Require Import Transformer Enclosure.
Import ListNotations.

Definition eps : enclosure := div (integer 1) (integer 100000).

(** All that the cases share. Digits, sums and distances are natural numbers. *)
Record tables := Tables {
  weight : nat -> enclosure;          (* by distance, up to 11 *)
  cosine : nat -> enclosure;          (* by digit *)
  sine : nat -> enclosure;
  any_sine : enclosure;               (* of any digit *)
  pair : nat -> enclosure;            (* sine x + sine y, where x + y is the sum *)
  previous : nat -> nat -> enclosure; (* sine x + sine y, by z and c *)
  rivals : nat -> list (enclosure * enclosure);
                                      (* by how much cosine and sine exceed those of other digits *)
  out_ : enclosure;                   (* over the root mean square of an embedding *)
  up_ : enclosure;
  down_0_ : enclosure;
  down_1_ : enclosure;
  head_ : enclosure
}.

Definition ten : list nat := seq 0 10.

(** sine x + sine y over the digits with a property. *)
Definition pairs_where (sine : nat -> enclosure) (p : nat -> nat -> bool) : enclosure :=
  hull (map (fun xy => add (sine (fst xy)) (sine (snd xy)))
            (filter (fun xy => p (fst xy) (snd xy)) (list_prod ten ten))).

Definition tables_of (m : model) : tables :=
  let step := dyadic_value (stride m) in
  let angle d := mul (sub (integer (Z.of_nat d)) (div (integer 9) (integer 2))) step in
  let cosine := tabulate anything 10 (fun d => cos (angle d)) in
  let sine := tabulate anything 10 (fun d => sin (angle d)) in
  let mean := add (div (integer 1) (integer 2)) eps in
  let turn := dyadic_value (query_angle m) in
  let scale := dyadic_value (query_scale m) in
  let place k := div (mul (mul (integer 2) pi) (integer (Z.of_nat k))) (integer 12) in
  let denominator := mul mean (sqrt (integer 2)) in
  {| weight := tabulate anything 12
       (fun k => exp (div (mul scale (cos (add (place k) turn))) denominator));
     cosine := cosine;
     sine := sine;
     any_sine := hull (map sine ten);
     pair := tabulate anything 19 (fun s => pairs_where sine (fun x y => x + y =? s)%nat);
     previous := tabulate (fun _ => anything) 10 (fun z => tabulate anything 2 (fun c =>
       pairs_where sine (fun x y => (x + y =? z + 10 * c) || (x + y + 1 =? z + 10 * c))%nat));
     rivals := tabulate [] 10 (fun s =>
       map (fun d => (sub (cosine s) (cosine d), sub (sine s) (sine d)))
           (filter (fun d => negb (d =? s)%nat) ten));
     out_ := div (dyadic_value (out m)) (sqrt mean);
     up_ := dyadic_value (up m);
     down_0_ := dyadic_value (down_0 m);
     down_1_ := dyadic_value (down_1 m);
     head_ := dyadic_value (head m) |}.

(** [forallb], which stops where it fails. ([&&] and [||] compute both sides.) *)
Fixpoint all {A} (p : A -> bool) (xs : list A) : bool :=
  match xs with [] => true | x :: xs => if p x then all p xs else false end.

Lemma all_in {A} (p : A -> bool) xs : all p xs = true -> forall x, In x xs -> p x = true.
Proof.
  induction xs as [|y xs IH]; simpl; intros H x [].
  - subst. now destruct (p x).
  - destruct (p y); [auto | discriminate].
Qed.

(** Whether digit [s] leads every other one when the last token is [z] and [u] encloses channel 1. *)
Definition leads (t : tables) (z s : nat) (u : enclosure) : bool :=
  let c := cosine t z in
  let r := sqrt (add (div (add (add (sqr c) (sqr u)) (integer 1)) (integer 4)) eps) in
  let gate := mul (up_ t) c in
  let unit_0 := relu (add gate u) in
  let unit_1 := relu (sub gate u) in
  let read_0 := mul (head_ t) (add (mul c r) (mul (down_0_ t) (add unit_0 unit_1))) in
  let read_1 := mul (head_ t) (add (mul u r) (mul (down_1_ t) (sub unit_0 unit_1))) in
  all (fun by_ => positive (add (mul (fst by_) read_0) (mul (snd by_) read_1))) (rivals t s).

(** The same, [u] being cut in halves up to [cuts] times where it is too wide. *)
Fixpoint leads_on (t : tables) (z s : nat) (cuts : nat) (u : enclosure) : bool :=
  if leads t z s u then true else
  match cuts with
  | O => false
  | S cuts => if leads_on t z s cuts (fst (halves u)) then leads_on t z s cuts (snd (halves u))
              else false
  end.

(** Positions: separators, which hold zeros; those of columns [n] and [n - 1]; all others that are read. *)
Definition separator (p : nat) : bool := ((p mod 12 =? 0) || (p mod 12 =? 11))%nat.

Definition near (n p : nat) : bool :=
  ((p =? n) || (p =? 12 + n) || (p =? n - 1) || (p =? 11 + n) || (p =? 23 + n))%nat.

Definition read_at (n : nat) : list nat := seq 0 (24 + n).
Definition far (n : nat) : list nat := filter (fun p => negb (near n p)) (read_at n).

Lemma read_at_bound (n p : nat) : In p (read_at n) -> (p < 24 + n)%nat.
Proof. unfold read_at. intros H. exact (proj2 (proj1 (in_seq _ _ _) H)). Qed.

Lemma far_bound (n p : nat) : In p (far n) -> (p < 24 + n)%nat.
Proof. unfold far. intros H. exact (read_at_bound n p (proj1 (proj1 (filter_In _ _ _) H))). Qed.

Definition distance_mod (n p : nat) : nat := ((23 + n - p) mod 12)%nat.

(** Channel 1 after the attention is the last token's sine plus
    [toward t n 0] (sine x' + sine y' + sine z) + [toward t n 11] (sine x + sine y) + [rest t n],
    where x, y are the digits of column [n], and x', y' those of column [n - 1]. *)
Definition factor (t : tables) (n : nat) : enclosure :=
  div (out_ t) (total (map (fun p => weight t (distance_mod n p)) (read_at n))).

Definition toward (t : tables) (n k : nat) : enclosure := mul (factor t n) (weight t k).

Definition rest (t : tables) (n : nat) : enclosure :=
  mul (factor t n) (total (map (fun p =>
    mul (weight t (distance_mod n p)) (if separator p then sine t 0 else any_sine t)) (far n))).

Definition seen (t : tables) (near_0 near_11 rest : enclosure) (z c s : nat) : enclosure :=
  add (sine t z) (add (add rest (mul near_0 (add (previous t z c) (sine t z))))
                      (mul near_11 (pair t s))).

(** All cases of some steps at once: all steps ask nearly alike, so that one enclosure for all of them
    is hardly wider than that of one. *)
Definition check_steps (t : tables) (steps : list nat) : bool :=
  let near_0 := hull (map (fun n => toward t n 0) steps) in
  let near_11 := hull (map (fun n => toward t n 11) steps) in
  let rest := hull (map (rest t) steps) in
  let sums := if forallb (Nat.eqb 11) steps then [0%nat] else seq 0 19 in
  all (fun z => all (fun c => all (fun s =>
    leads_on t z ((s + c) mod 10) 12 (seen t near_0 near_11 rest z c s))
  sums) [0; 1]%nat) ten.

(** The last step alone: both its operands' digits are the leading zeros. *)
Definition together : list (list nat) := [seq 1 10; [11%nat]].
Definition one_by_one : list (list nat) := map (fun n => [n]) (seq 1 11).

Definition check (m : model) : bool :=
  let t := tables_of m in
  if all (check_steps t) together then true else all (check_steps t) one_by_one.

(** What [check] found out, case by case. *)
Definition sums (n : nat) : list nat := if (n =? 11)%nat then [0%nat] else seq 0 19.

Lemma check_steps_cases (t : tables) (steps : list nat) (n z c s : nat) :
  check_steps t steps = true ->
  In n steps -> In z ten -> In c [0; 1]%nat -> In s (sums n) ->
  leads_on t z ((s + c) mod 10) 12
    (seen t (hull (map (fun n => toward t n 0) steps)) (hull (map (fun n => toward t n 11) steps))
            (hull (map (rest t) steps)) z c s) = true.
Proof.
  unfold check_steps. cbv zeta. intros H Hn Hz Hc Hs.
  pose proof (all_in _ _ (all_in _ _ (all_in _ _ H z Hz) c Hc) s) as Hcase. apply Hcase. clear H Hcase.
  destruct (forallb (Nat.eqb 11) steps) eqn:E.
  - rewrite forallb_forall in E. specialize (E n Hn). apply Nat.eqb_eq in E. subst n. exact Hs.
  - unfold sums in Hs. destruct (n =? 11)%nat; [|exact Hs].
    destruct Hs as [<-|[]]. now left.
Qed.

Lemma check_cases (m : model) (n : nat) : check m = true -> In n (seq 1 11) ->
  exists steps, In n steps /\ check_steps (tables_of m) steps = true.
Proof.
  unfold check. generalize (tables_of m). cbv zeta. intros t H Hn.
  destruct (all (check_steps t) together) eqn:E.
  - destruct (Nat.eq_dec n 11) as [->|Hne].
    + exists [11%nat]. split; [now left|]. apply (all_in _ _ E). right. now left.
    + exists (seq 1 10). split; [|apply (all_in _ _ E); now left].
      apply in_seq. apply in_seq in Hn. lia.
  - exists [n]. split; [now left|]. apply (all_in _ _ H). unfold one_by_one.
    exact (in_map (fun n => [n]) _ n Hn).
Qed.
