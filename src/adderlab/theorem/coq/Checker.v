(** A program that decides whether a model adds, by interval arithmetic over a few thousand cases.

    Asked for digit [n] of 10 a + 10 b (digit 0 is that of the last separator, a zero), the transformer
    has digit [n - 1], its last token [z], before it. A case fixes [n], [z], the carry [c] into column [n],
    and the sum of the two digits of column [n]. Of column [n - 1] it is known that its digits and some
    carry make [z + 10 c]; digits of all other columns may be anything. *)

Require Import ZArith List Bool.
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
     previous :=
       let by_z := tabulate (fun _ => anything) 10 (fun z => tabulate anything 2 (fun c =>
         pairs_where sine (fun x y => (x + y =? z + 10 * c) || (x + y + 1 =? z + 10 * c))%nat))
       in by_z;
     rivals := tabulate [] 10 (fun s =>
       map (fun d => (sub (cosine s) (cosine d), sub (sine s) (sine d)))
           (filter (fun d => negb (d =? s)%nat) ten));
     out_ := div (dyadic_value (out m)) (sqrt mean);
     up_ := dyadic_value (up m);
     down_0_ := dyadic_value (down_0 m);
     down_1_ := dyadic_value (down_1 m);
     head_ := dyadic_value (head m) |}.

(** Whether digit [s] leads every other one when the last token is [z] and [u] encloses channel 1. *)
Definition leads (t : tables) (z s : nat) (u : enclosure) : bool :=
  let c := cosine t z in
  let r := sqrt (add (div (add (add (sqr c) (sqr u)) (integer 1)) (integer 4)) eps) in
  let gate := mul (up_ t) c in
  let unit_0 := relu (add gate u) in
  let unit_1 := relu (sub gate u) in
  let read_0 := mul (head_ t) (add (mul c r) (mul (down_0_ t) (add unit_0 unit_1))) in
  let read_1 := mul (head_ t) (add (mul u r) (mul (down_1_ t) (sub unit_0 unit_1))) in
  forallb (fun by_ => positive (add (mul (fst by_) read_0) (mul (snd by_) read_1))) (rivals t s).

(** The same, [u] being cut in halves up to [cuts] times where it is too wide. (Not with [||] and [&&],
    which compute both sides.) *)
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

Definition sums (n : nat) : list nat := if (n =? 11)%nat then [0%nat] else seq 0 19.

(** What a step of the sum is multiplied by, and the part of it that is the same in all cases. *)
Definition factor (t : tables) (n : nat) : enclosure :=
  div (out_ t) (total (map (fun p => weight t (distance_mod n p)) (read_at n))).

Definition rest (t : tables) (n : nat) : enclosure :=
  total (map (fun p =>
    mul (weight t (distance_mod n p)) (if separator p then sine t 0 else any_sine t)) (far n)).

(** Channel 1 after the attention, in a case. *)
Definition seen (t : tables) (factor rest : enclosure) (z c s : nat) : enclosure :=
  add (sine t z)
      (mul factor (add (add rest (mul (weight t 0) (add (previous t z c) (sine t z))))
                       (mul (weight t 11) (pair t s)))).

Definition check_step (t : tables) (n : nat) : bool :=
  let factor := factor t n in
  let rest := rest t n in
  forallb (fun z => forallb (fun c => forallb (fun s =>
    leads_on t z ((s + c) mod 10) 12 (seen t factor rest z c s))
  (sums n)) [0; 1]%nat) ten.

Definition check (m : model) : bool :=
  let t := tables_of m in forallb (check_step t) (seq 1 11).

(** What [check] found out, case by case. *)
Lemma check_cases (m : model) (n z c s : nat) : check m = true ->
  In n (seq 1 11) -> In z ten -> In c [0; 1]%nat -> In s (sums n) ->
  leads_on (tables_of m) z ((s + c) mod 10) 12
    (seen (tables_of m) (factor (tables_of m) n) (rest (tables_of m) n) z c s) = true.
Proof.
  unfold check. generalize (tables_of m). cbv zeta. intros t H Hn Hz Hc Hs.
  rewrite forallb_forall in H. specialize (H n Hn). unfold check_step in H.
  rewrite forallb_forall in H. specialize (H z Hz). rewrite forallb_forall in H.
  specialize (H c Hc). rewrite forallb_forall in H. exact (H s Hs).
Qed.
