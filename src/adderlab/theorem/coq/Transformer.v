(** The smallest trained adders (presets 7p and 8p) as functions on real numbers.

    This file is all that a reader has to believe: it says what the transformer computes, how it is
    asked, and how its answer is read. It is [adderlab.models.transformer] and [adderlab.models.tables]
    for this one shape, in exact arithmetic: one layer, one head, four channels, two ReLU units. Nothing
    in it is simplified; what follows from the shape is proved in [Reduction.v]. *)

Require Import Reals ZArith List.
Import ListNotations.
Open Scope R_scope.

(** * The weights *)

(** A float32 number, exactly: [numerator / 2^places]. *)
Record dyadic := Dyadic { numerator : Z; places : nat }.

Definition value (x : dyadic) : R := IZR (numerator x) / 2 ^ places x.

(** All trained numbers, by what they do (docs/smallest.md). *)
Record model := Model {
  stride : dyadic;       (* angle between neighbouring digits:       token_emb.stride *)
  query_scale : dyadic;  (* scores are multiplied by it:             attn.q_proj.scale *)
  query_angle : dyadic;  (* queries are keys turned by it:           attn.q_proj.angle *)
  out : dyadic;          (* what attention saw, times this, joins the stream: attn.proj *)
  up : dyadic;           (* the units read channel 0 with it:        mlp.fc1 *)
  down_0 : dyadic;       (* the units write channel 0 with it:       mlp.fc2, first *)
  down_1 : dyadic;       (* and channel 1:                           mlp.fc2, second *)
  head : dyadic          (* logits are multiplied by it: the 8p learns it, the 7p has -300 *)
}.

(** * The layers *)

(** The residual stream at one position. *)
Record stream := Stream { ch0 : R; ch1 : R; ch2 : R; ch3 : R }.

Definition digit_angle (m : model) (digit : Z) : R := (IZR digit - 9 / 2) * value (stride m).

(** Twelve places on a circle: column j of a, b and s has place j, separators have place 10 or 11. *)
Definition position_angle (position : nat) : R := 2 * PI * (INR position - 1) / 12.

(** A token at a position: the digit's point on an arc beside the position's point on a circle. *)
Definition embed (m : model) (position : nat) (token : Z) : stream :=
  Stream (cos (digit_angle m token)) (sin (digit_angle m token))
         (cos (position_angle position)) (sin (position_angle position)).

Definition eps : R := 1 / 100000.

(** Root mean square over the channels. *)
Definition rms (x : stream) : R :=
  sqrt ((ch0 x ^ 2 + ch1 x ^ 2 + ch2 x ^ 2 + ch3 x ^ 2) / 4 + eps).

Definition norm (x : stream) : stream :=
  Stream (ch0 x / rms x) (ch1 x / rms x) (ch2 x / rms x) (ch3 x / rms x).

Definition sum (xs : list R) : R := fold_right Rplus 0 xs.

(** Query, key and value are read from a normed stream; the score is their product over sqrt 2. *)
Definition score (m : model) (asking seen : stream) : R :=
  let angle := value (query_angle m) in
  let query_0 := value (query_scale m) * (ch2 asking * cos angle - ch3 asking * sin angle) in
  let query_1 := value (query_scale m) * (ch2 asking * sin angle + ch3 asking * cos angle) in
  (query_0 * ch2 seen + query_1 * ch3 seen) / sqrt 2.

(** Softmax over all positions up to the asking one, which is the last, and the mean of the values. *)
Definition attention (m : model) (asking : stream) (seen : list stream) : R :=
  let weight x := exp (score m (norm asking) (norm x)) in
  let value_of x := ch1 (norm x) in
  sum (map (fun x => weight x * value_of x) seen) / sum (map weight seen).

Definition add_attention (m : model) (seen : list stream) (x : stream) : stream :=
  Stream (ch0 x) (ch1 x + value (out m) * attention m x seen) (ch2 x) (ch3 x).

Definition relu (x : R) : R := Rmax x 0.

(** Two hidden units, each the mirror image of the other in channel 1. *)
Definition add_mlp (m : model) (x : stream) : stream :=
  let u := norm x in
  let unit_0 := relu (value (up m) * ch0 u + ch1 u) in
  let unit_1 := relu (value (up m) * ch0 u - ch1 u) in
  Stream (ch0 x + value (down_0 m) * (unit_0 + unit_1))
         (ch1 x + value (down_1 m) * (unit_0 - unit_1)) (ch2 x) (ch3 x).

(** The logit of a digit: the final norm, compared with the digit's point on the arc. *)
Definition read_out (m : model) (x : stream) (digit : Z) : R :=
  value (head m) * (ch0 (norm x) * cos (digit_angle m digit)
                  + ch1 (norm x) * sin (digit_angle m digit)).

(** * The transformer: logits after the last of some tokens *)

Definition embedded (m : model) (tokens : list Z) : list stream :=
  map (fun p => embed m p (nth p tokens 0%Z)) (seq 0 (length tokens)).

Definition last_stream (m : model) (tokens : list Z) : stream :=
  let p := (length tokens - 1)%nat in embed m p (nth p tokens 0%Z).

Definition logits (m : model) (tokens : list Z) : Z -> R :=
  read_out m (add_mlp m (add_attention m (embedded m tokens) (last_stream m tokens))).

(** * Greedy decoding *)

Definition digit_tokens : list Z := map Z.of_nat (seq 0 10).

(** The digit with the largest logit. (The first of them in a tie; [Soundness.v] proves that there
    are no ties.) *)
Definition argmax (f : Z -> R) : Z :=
  fold_left (fun best d => if Rlt_dec (f best) (f d) then d else best) digit_tokens 0%Z.

(** The next [steps] tokens, each appended before the next is asked for. *)
Fixpoint generate (m : model) (tokens : list Z) (steps : nat) : list Z :=
  match steps with
  | O => []
  | S rest => let token := argmax (logits m tokens) in
              token :: generate m (tokens ++ [token]) rest
  end.

(** * Numbers as tokens, units first *)

Fixpoint digits (count : nat) (x : Z) : list Z :=
  match count with
  | O => []
  | S rest => (x mod 10)%Z :: digits rest (x / 10)%Z
  end.

Fixpoint number (ds : list Z) : Z :=
  match ds with
  | [] => 0
  | d :: rest => d + 10 * number rest
  end%Z.

(** [0 a_0 .. a_9 0 0 b_0 .. b_9 0 0]: layout C of [adderlab.task.addition]. *)
Definition prompt (a b : Z) : list Z :=
  [0%Z] ++ digits 10 a ++ [0%Z; 0%Z] ++ digits 10 b ++ [0%Z; 0%Z].

(** What the transformer answers for a + b: eleven tokens, read as a number. *)
Definition decode (m : model) (a b : Z) : Z := number (generate m (prompt a b) 11).
