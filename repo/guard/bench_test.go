package guard_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/internal/object"
)

// BenchmarkAppendPack is what the guard costs for a pack of 16 MiB: every cell's tags, and the store in memory.
func BenchmarkAppendPack(b *testing.B) {
	s := newSite(b)
	a := takeOver(s, "web-host", s.enrol("web"))
	name, file := a.sealed(object.KindData, "data", a.lease(), 16<<20-100_000)
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		require.NoError(b, a.create(name, file))
		s.st.Set(name, nil)
	}
}
