package ntfs

import (
	"errors"
	"fmt"
	"slices"
)

// maxRuns bounds how many parts one stream may lie in: 36 MiB. Windows ends at an attribute list of 256 KiB, which
// names about 1.5 million.
const maxRuns = 3 << 19

// run is a part of a stream, in clusters.
type run struct {
	vcn int64 // where it begins in the stream
	lcn int64 // where it lies in the volume; -1: nowhere, a hole
	n   int64
}

func (r run) end() int64 { return r.vcn + r.n }

var errTooManyRuns = errors.New("it lies in too many parts")

// appendRuns decodes the run list of one part of a stream, whose clusters are low to high, and joins what is adjacent.
//
// An entry is a byte with two lengths, a number of clusters, and the distance of its first cluster from that of the
// entry before; without a distance it is a hole. No more clusters than the volume has can be in one stream, which bounds
// everything that is done with it by the size of the volume.
func appendRuns(runs []run, a attr, clusters int64) ([]run, error) {
	vcn, lcn, total := a.low, int64(0), int64(0)
	for p := a.pairs; len(p) > 0 && p[0] != 0; {
		nl, ol := int(p[0]&15), int(p[0]>>4)
		if nl == 0 || nl > 8 || ol > 8 || 1+nl+ol > len(p) {
			return nil, fmt.Errorf("run list: an entry with lengths %d and %d, %d bytes left", nl, ol, len(p))
		}
		r := run{vcn: vcn, lcn: -1, n: signed(p[1 : 1+nl])}
		if r.n <= 0 || r.n > a.high+1-vcn {
			return nil, fmt.Errorf("run list: %d clusters at %d, it ends at %d", r.n, vcn, a.high)
		}
		if ol > 0 {
			lcn += signed(p[1+nl : 1+nl+ol])
			if lcn < 0 || lcn >= clusters || r.n > clusters-lcn || r.n > clusters-total {
				return nil, fmt.Errorf("run list: clusters [%d, +%d) of %d", lcn, r.n, clusters)
			}
			r.lcn, total = lcn, total+r.n
		}
		if runs = join(runs, r); len(runs) > maxRuns {
			return nil, errTooManyRuns
		}
		vcn, p = vcn+r.n, p[1+nl+ol:]
	}
	if vcn != a.high+1 && !(vcn == 0 && a.high == 0) {
		return nil, fmt.Errorf("run list: it ends at cluster %d instead of %d", vcn-1, a.high)
	}
	return runs, nil
}

// signed is a little-endian number of 1 to 8 bytes.
func signed(p []byte) int64 {
	v := int64(int8(p[len(p)-1]))
	for i := len(p) - 2; i >= 0; i-- {
		v = v<<8 | int64(p[i])
	}
	return v
}

func join(runs []run, r run) []run {
	if k := len(runs) - 1; k >= 0 {
		last := &runs[k]
		if last.end() == r.vcn && (last.lcn < 0 && r.lcn < 0 || last.lcn >= 0 && last.lcn+last.n == r.lcn) {
			last.n += r.n
			return runs
		}
	}
	return append(runs, r)
}

// findRun is the index of the run that holds a cluster of the stream, len(runs) where none does.
func findRun(runs []run, vcn int64) int {
	i, _ := slices.BinarySearchFunc(runs, vcn, func(r run, v int64) int {
		if r.end() <= v {
			return -1
		}
		return 1
	})
	return i
}
