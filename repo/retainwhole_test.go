package repo

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
)

// A point of which something could not be read is not one to keep instead of a whole one, wherever it says so.
func TestWhatIsWhole(t *testing.T) {
	require.True(t, retainedPoint(pipe.PointInfo{Disks: []pipe.DiskInfo{{Key: "a", Absent: map[string]int64{"free": 9}}}, Blobs: []pipe.BlobInfo{{Name: "config.xml"}}}).Whole)
	require.False(t, retainedPoint(pipe.PointInfo{Disks: []pipe.DiskInfo{{Key: "a"}, {Key: "b", Absent: map[string]int64{"bad": 512}}}}).Whole)
	require.False(t, retainedPoint(pipe.PointInfo{Disks: []pipe.DiskInfo{{Key: "a"}}, Blobs: []pipe.BlobInfo{{Name: pipe.UnreadableBlob}}}).Whole)
}
