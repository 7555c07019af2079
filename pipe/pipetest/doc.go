// Package pipetest is for whoever implements the nouns of package pipe, or builds on them.
//
// # Suites
//
// [TestImage], [TestTarget] and [TestBackend] hold an implementation to the contracts in package pipe. [CheckImage]
// returns an error instead, so it can look at a live host too.
//
//	func TestBackend(t *testing.T) {
//		pipetest.TestBackend(t, func(t testing.TB) pipe.Backend { return openMine(t) })
//	}
//
// # Content
//
// [NewPattern] is a disk of any size whose content follows from a seed: random, text-like and repeated stretches,
// zeros that no extent tells of, and any layout of kinds. [NewBackend] is a backend in memory that deduplicates,
// verifies and shares as a repository does.
//
// # Faults
//
// [HookImage], [HookTarget] and [HookBackend] show every operation to a function before it happens, without hiding an
// ability. [FailNth] is such a function, and so is a [Log]. A sweep fails operation 1, 2, 3 … until the run succeeds:
//
//	for n := int64(1); ; n++ {
//		fault := pipetest.FailNth(n, false)
//		_, err := pipe.Copy(ctx, target, pipetest.HookImage(img, fault.Hook), nil)
//		if !fault.Fired() {
//			require.NoError(t, err)
//			break
//		}
//		require.ErrorIs(t, err, pipetest.ErrFault)
//	}
//
// [BadSectors], [ShortReads] and [Flip] are images that break in one way.
package pipetest
