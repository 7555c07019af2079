package engine

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/internal/bubble"
)

// R198, R201: who is passed because others have what it needs is told so with its name, once; who waits for its turn alone is not.
func TestWaitingIsTold(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		type said struct {
			what        What
			task, needs string
		}
		var all []said
		list := []Task{worker("1", time.Minute, "host/a", "datastore/x"), worker("2", time.Minute, "host/a"), worker("3", 3*time.Minute, "datastore/x", "host/b"),
			worker("4", 90*time.Second, "host/b"), worker("5", time.Minute)}
		_, err := Run(t.Context(), "nightly", list, &Options{Limits: map[string]int{"tasks": 2, "host/*": 1, "datastore/*": 1}, Events: func(e Event) {
			if e.What != Ended {
				all = append(all, said{e.What, e.Task, e.Needs})
			}
		}})
		require.NoError(t, err)
		assert.Equal(t, []said{
			{Begun, "1", ""}, {Waiting, "2", "host/a"}, {Waiting, "3", "datastore/x"}, {Begun, "4", ""}, // 5 waits for its turn
			{Begun, "2", ""}, {Begun, "3", ""},
			{Begun, "5", ""},
		}, all)
	})
}

// A task whose host rests says that it waits for the host.
func TestWaitingForWhatRests(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		back := time.Now().Add(time.Minute)
		var list []Task
		for _, id := range []string{"1", "2", "3", "4", "5"} {
			list = append(list, Task{ID: id, VM: id, Needs: []string{"host/a"}, Do: func(context.Context, *Attempt) (Outcome, error) {
				time.Sleep(time.Second)
				if time.Now().Before(back) {
					return Outcome{}, errAway
				}
				return Outcome{}, nil
			}})
		}
		rested, waits := false, map[string]int{}
		res, err := Run(t.Context(), "nightly", list, &Options{Limits: map[string]int{"tasks": 1}, Retry: Retry{Attempts: 9}, Events: func(e Event) {
			rested = rested || e.What == Rested
			if e.What == Waiting {
				assert.True(t, rested)
				assert.Equal(t, "host/a", e.Needs)
				waits[fmt.Sprint(e.Task, " try ", e.Attempt)]++
			}
		}})
		require.NoError(t, err)
		assert.Equal(t, 5, res.Count(Done))
		assert.Contains(t, waits, "4 try 1")
		for which, n := range waits {
			assert.Equal(t, 1, n, which)
		}
	})
}

// R201, R203: what a VM's backup takes is its host, its proxy and each place that its disks lie on, once; a disk that is left out takes nothing.
func TestNeedsOfAVM(t *testing.T) {
	vm := hikae.VM{ID: "vm-1", Disks: []hikae.Disk{{Key: "a"}, {Key: "b"}, {Key: "c"}, {Key: "d", Skip: "it is a physical disk"}},
		Facts: map[string]string{"host": "esx1", "proxy": "p1", "datastore.a": "ds2", "datastore.b": "ds1", "datastore.c": "ds1", "datastore.d": "raw"}}
	assert.Equal(t, []string{"datastore/ds1", "datastore/ds2", "host/esx1", "proxy/p1"}, Needs(vm))
	assert.Empty(t, Needs(hikae.VM{Disks: vm.Disks}))
	task := (&BackupsOptions{Repository: "main"}).task(vm, nil, nil)
	assert.Equal(t, append(Needs(vm), "repository/main"), task.Needs)
	task = (&BackupsOptions{Repository: "main", Needs: func(hikae.VM) []string { return []string{"line/wan"} }}).task(vm, nil, nil)
	assert.Equal(t, []string{"line/wan", "repository/main"}, task.Needs)
}
