package hyperv

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// R197: who shares a volume is together, directly or by others in between; no group is larger than it may be.
func TestGroupByVolumes(t *testing.T) {
	for _, c := range []struct {
		name string
		size int
		list []*member
		want [][]string
	}{
		{"one volume", 4, []*member{{"a", "k", []string{"c:"}}, {"b", "k", []string{"c:"}}}, [][]string{{"a", "b"}}},
		{"two volumes", 4, []*member{{"a", "k", []string{"c:"}}, {"b", "k", []string{"d:"}}, {"c", "k", []string{"c:"}}}, [][]string{{"a", "c"}, {"b"}}},
		{"one between", 4, []*member{{"a", "k", []string{"c:"}}, {"b", "k", []string{"d:"}}, {"c", "k", []string{"d:", "c:"}}}, [][]string{{"a", "b", "c"}}},
		{"two hosts", 4, []*member{{"a", "k", []string{"c:"}}, {"b", "l", []string{"c:"}}}, [][]string{{"a"}, {"b"}}},
		{"size", 2, []*member{{"a", "k", []string{"c:"}}, {"b", "k", []string{"c:"}}, {"c", "k", []string{"c:"}}}, [][]string{{"a", "b"}, {"c"}}},
		{"not planned", 4, []*member{{"a", "", nil}, {"b", "", nil}}, [][]string{{"a"}, {"b"}}},
		{"none", 4, nil, nil},
	} {
		require.Equal(t, c.want, group(c.list, c.size), c.name)
	}
}

// Every VM is in one group; those of a group are connected, and where size allows nothing that is connected is parted.
func TestGroupIsAPartition(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var list []*member
		for i := range rapid.IntRange(0, 12).Draw(r, "VMs") {
			list = append(list, &member{fmt.Sprint(i), rapid.SampledFrom([]string{"", "k", "l"}).Draw(r, "kind"),
				rapid.SliceOfN(rapid.SampledFrom([]string{"c:", "d:", "e:", "f:"}), 0, 3).Draw(r, "volumes")})
		}
		size := rapid.SampledFrom([]int{1, 2, 3, 100}).Draw(r, "size")
		groups, in := group(list, size), map[string]int{}
		for i, g := range groups {
			if len(g) == 0 || len(g) > size {
				r.Fatalf("a group of %d, at most %d", len(g), size)
			}
			for _, id := range g {
				if _, twice := in[id]; twice {
					r.Fatalf("%s is in two groups", id)
				}
				in[id] = i
			}
		}
		if len(in) != len(list) {
			r.Fatalf("%d of %d VMs are in groups", len(in), len(list))
		}
		for _, a := range list {
			for _, b := range list {
				if size == 100 && a.kind != "" && a.kind == b.kind && shareOne(a, b) && in[a.id] != in[b.id] {
					r.Fatalf("%s and %s share a volume and are parted", a.id, b.id)
				}
				if in[a.id] == in[b.id] && a != b && (a.kind != b.kind || a.kind == "") {
					r.Fatalf("%s and %s are of two kinds and together", a.id, b.id)
				}
			}
		}
	})
}

func shareOne(a, b *member) bool {
	for _, v := range a.volumes {
		for _, w := range b.volumes {
			if v == w {
				return true
			}
		}
	}
	return false
}

func TestVolumeOf(t *testing.T) {
	for path, want := range map[string]string{
		`C:\VMs\web1.vhdx`:                      `c:`,
		`d:\x`:                                  `d:`,
		`C:\ClusterStorage\Volume1\web1\a.vhdx`: `c:\clusterstorage\volume1`,
		`C:\ClusterStorage\Volume2\a.vhdx`:      `c:\clusterstorage\volume2`,
		`\\fs1\vms\web1\a.vhdx`:                 `\\fs1\vms`,
		`\\?\Volume{8a1b-…}\VMs\a.vhdx`:         `\\?\volume{8a1b-…}`,
		``:                                      ``,
		`\\`:                                    ``,
		`web1.vhdx`:                             `web1.vhdx`,
	} {
		require.Equal(t, want, volumeOf(path), path)
	}
}

// What a merge leaves undone is told and leaves the effect; the rest is an error.
func TestPendingIsTold(t *testing.T) {
	var told []string
	p := &Provider{opts: ProviderOptions{Warn: func(vm, text string) { told = append(told, vm+" "+text) }}}
	other := fmt.Errorf("other: %w; %w", errors.ErrUnsupported, errors.ErrUnsupported)
	warnings, err := p.tellPending(errors.Join(errors.Join(&PendingError{VM: "a", What: "x"}, &PendingError{VM: "b", What: "y"}), other))
	require.Len(t, warnings, 2)
	require.Len(t, told, 2)
	require.EqualError(t, err, other.Error())
	warnings, err = p.tellPending(nil)
	require.NoError(t, err)
	require.Empty(t, warnings)
}
