"""Collectives are counted by loops and arms, on a program written by hand in the compiler's syntax."""

import pytest

from jaxdlm.plan.collectives import Collective, Program, count, group_size

PROGRAM = """HloModule jit__run, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%layers_condition (p: (s32[], bf16[4,32])) -> pred[] {
  %seven = s32[]{:T(128)} constant(7)
  %p = (s32[]{:T(128)}, bf16[4,32]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %seven), direction=LT, metadata={op_name="while/cond/lt"}
}

%layers_body (p: (s32[], bf16[4,32])) -> (s32[], bf16[4,32]) {
  %p = (s32[]{:T(128)}, bf16[4,32]{1,0}) parameter(0)
  %x = bf16[4,32]{1,0} get-tuple-element(%p), index=1
  %r = bf16[4,32]{1,0:T(8,128)(2,1)S(1)} all-reduce(%x), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %out = (s32[]{:T(128)}, bf16[4,32]{1,0}) tuple(%x, %r)
}

%fused (q: f32[8]) -> f32[2] {
  %q = f32[8]{0} parameter(0)
  ROOT %s = f32[2]{0} reduce-scatter(%q), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}

%block (p: bf16[4,32]) -> bf16[4,32] {
  %p = bf16[4,32]{1,0} parameter(0)
  %f = f32[2]{0} fusion(%p), kind=kCustom, calls=%fused
  ROOT %w = (s32[], bf16[4,32]{1,0}) while(%p), condition=%layers_condition, body=%layers_body
}

%everything (p: bf16[4,32]) -> bf16[4,32] {
  %p = bf16[4,32]{1,0} parameter(0)
  %g = (f32[2]{0}, f32[8,3]{0}, u32[]) all-gather-start(%p), replica_groups=mesh['x'=2,'y'=4] {'y'}, dimensions={0}
  ROOT %d = f32[8,3]{0} all-gather-done(%g)
}

%decode_condition (p: (s32[], pred[4])) -> pred[] {
  %most = s32[]{:T(128)} constant(2147483647)
  %p = (s32[], pred[4]{0}) parameter(0)
  %less = pred[] compare(%p, %most), direction=LT
  %any = u32[] all-reduce(%p), replica_groups=mesh['x'=2,'y'=4] {'x'}, to_apply=%add
  ROOT %and = pred[] and(%less, %any)
}

%decode_body (p: (s32[], pred[4])) -> (s32[], pred[4]) {
  %p = (s32[], pred[4]{0}) parameter(0)
  ROOT %c = bf16[4,32]{1,0} conditional(%p, %p, %p), branch_computations={%block, %everything}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %once = f32[1024]{0} all-gather(%p), replica_groups=[1,8]<=[8], dimensions={0}
  %first = (s32[], bf16[4,32]{1,0}) while(%p), condition=%layers_condition, body=%layers_body
  ROOT %w = (s32[], pred[4]{0}) while(%p), condition=%decode_condition, body=%decode_body
}
"""


def test_the_arm_of_a_step_runs_its_layers():
    """Seven layers reduce 4 · 32 bfloat16 each; what stands before the decode loop counts for nothing."""
    assert count(PROGRAM, 0) == [
        Collective("all-reduce", 4, 7, 7 * 4 * 32 * 2),
        Collective("reduce-scatter", 4, 1, 2 * 4),
        Collective("all-reduce", 2, 1, 4),
    ]


def test_an_asynchronous_pair_counts_once_with_its_result():
    assert count(PROGRAM, 1) == [Collective("all-gather", 4, 1, 8 * 3 * 4), Collective("all-reduce", 2, 1, 4)]


def test_trips():
    program = Program(PROGRAM)
    loops = [x for x in program.computations["main"].values() if x.op == "while"]
    assert [program.trips(loop) for loop in loops] == [7, None]
    assert program.decode_loop() is loops[1]


def test_a_program_without_a_loop_has_no_forwards():
    assert count(PROGRAM.split("%decode_condition")[0], 0) == []


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0), dimensions={1}", 2),
        ("replica_groups={{0,4},{1,5}}", 2),
        ("replica_groups=mesh['a'=2,'b'=4,'c'=8] {'a','c'}, channel_id=1", 16),
        ("source_target_pairs={{0,1},{1,0}}", 2),
    ],
)
def test_group_size(text, size):
    assert group_size(text) == size
