package hypervtest

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/helper/requester"
)

// Random histories: VMs of both systems write on while sets are made, fail in random ways, lose their requester or their shadow
// copies; whatever was before, nothing is left of it, production is as its guests wrote it, and the next set holds what they had
// at their quiescing.
func TestHostVSSHistories(t *testing.T) {
	rounds := 2
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		rounds = 80
	}
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 1))
	all := []string{"2008r2", "2012", "2012r2", "2012r2", "2016", "2022"}
	for range rounds {
		generation := all[r.IntN(len(all))]
		t.Logf("seed %d, generation %s", seed, generation)
		h, guests := vssHost(t, generation, "windows", "linux")
		h.SetVSS(VSSOptions{Recover: time.Millisecond, Gap: 3 * time.Millisecond})
		var stops []func()
		for _, g := range guests {
			stops = append(stops, g.Churn(r.Uint64()))
		}
		for range 3 {
			vssMishap(t, r, h, guests)
		}
		vssGood(t, h, guests)
		for i, g := range guests {
			stops[i]()
			for disk := range 2 {
				now, got := make([]byte, vssDisk), []byte(nil)
				_, err := g.Now(disk).ReadAt(now, 0)
				require.NoError(t, err)
				got, err = g.Read(disk, 0, vssDisk)
				require.NoError(t, err)
				require.True(t, bytes.Equal(now, got), "what the guest wrote is there")
			}
		}
		h.Close()
	}
}

// vssMishap is a set that comes to nothing, in one of several ways.
func vssMishap(t *testing.T, r *rand.Rand, h *Host, guests []*Guest) {
	faults := []string{"freeze", "recover", "checkpoint", "vss.do", "vss.volume", ""}
	event := faults[r.IntN(len(faults))]
	if event != "" {
		h.Fail(Fault{Event: event, VM: [...]string{"", guests[0].ID(), guests[1].ID()}[r.IntN(3)], Code: uint32(requester.WriterNonRetryable), Reason: "a fault"})
	}
	s := prepared(t, h, requester.Copy, guests...)
	failed := s.b.DoSnapshotSet(s.ctx)
	switch r.IntN(3) {
	case 0:
		require.NoError(t, h.KillRequester())
	case 1:
		require.NoError(t, h.LoseShadows())
	case 2:
		if failed == nil {
			require.NoError(t, s.b.AbortBackup(s.ctx))
		}
	}
	require.NoError(t, s.b.Close())
	h.Heal() // faults of other generations never happened
	vssClean(t, h, guests)
}

func vssGood(t *testing.T, h *Host, guests []*Guest) {
	tips := map[*Guest][]string{}
	for _, g := range guests {
		tips[g] = []string{g.Tip(0), g.Tip(1)}
	}
	s := taken(t, h, guests...)
	for _, g := range guests {
		for disk, tip := range tips[g] {
			require.True(t, bytes.Equal(frozen(t, g, disk), s.disk(tip, true)), "VM %s, disk %d differs from the freeze", g.name, disk)
		}
	}
	s.finish()
	vssClean(t, h, guests)
}

func vssClean(t *testing.T, h *Host, guests []*Guest) {
	t.Helper()
	for _, g := range guests {
		settled(t, h, g)
	}
	require.Eventually(t, func() bool { return len(h.Leftovers()) == 0 }, 5*time.Second, time.Millisecond)
}
