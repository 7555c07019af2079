package moverstore_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/repo/store/moverstore"
)

// BenchmarkCreate brings objects of 16 MiB over TLS on the loopback to a store in memory.
func BenchmarkCreate(b *testing.B) {
	x := newTarget(b)
	st := moverstore.Over(x.dial("owner", trust.Full))
	data := make([]byte, 16<<20)
	b.SetBytes(int64(len(data)))
	n := 0
	for b.Loop() {
		n++
		name := fmt.Sprint("bench/", n)
		require.NoError(b, st.Create(b.Context(), name, data))
		x.st.Set(name, nil)
	}
}
