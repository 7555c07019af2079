package record

import (
	"fmt"
	"strconv"
	"strings"
)

// PostgresBackup is the content of the record backup.json: what a restore has to know besides the label. Times are the
// server's own, RFC 3339 with microseconds; LSNs as the server writes them.
type PostgresBackup struct {
	System       string `json:"system"`  // identifier of the cluster
	Version      int    `json:"version"` // 150018
	SegmentBytes int64  `json:"segmentBytes"`
	Timeline     string `json:"timeline"` // 8 hexadecimal digits
	StartLSN     string `json:"startLSN"`
	StopLSN      string `json:"stopLSN"`
	StartTime    string `json:"startTime"`
	StopTime     string `json:"stopTime"` // asked for right before its end: no earlier moment can be restored
	// EndTime was asked for right behind its end: moments after it can be told apart, and those between are one. Empty:
	// that is StopTime.
	EndTime     string            `json:"endTime,omitempty"`
	Data        string            `json:"data"`
	Tablespaces map[string]string `json:"tablespaces"` // OID: folder
	// Archived says that the server's own archive had the backup's last segment when this was written.
	Archived bool `json:"archived"`
}

// IsTimeline reports whether s names a timeline as WAL files do.
func IsTimeline(s string) bool { return isHex(s, 8) }

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789ABCDEF") == ""
}

// IsSegment reports whether a file is called as WAL segments are.
func IsSegment(name string) bool { return isHex(name, 24) }

// IsHistory reports whether a file is called as a timeline's history is.
func IsHistory(name string) bool {
	t, ok := strings.CutSuffix(name, ".history")
	return ok && IsTimeline(t)
}

// SegmentName names the nth segment of a timeline. size is in bytes, a power of two of at most 1 GiB.
func SegmentName(timeline string, n, size int64) string {
	each := (1 << 32) / size
	return fmt.Sprintf("%s%08X%08X", timeline, n/each, n%each)
}

// SegmentNumber is the number of a segment in the whole log.
func SegmentNumber(name string, size int64) (int64, error) {
	if !IsSegment(name) || !IsSegmentSize(size) {
		return 0, fmt.Errorf("%.64q is no segment of %d bytes", name, size)
	}
	high, _ := strconv.ParseInt(name[8:16], 16, 64)
	low, _ := strconv.ParseInt(name[16:], 16, 64)
	each := (1 << 32) / size
	if low >= each {
		return 0, fmt.Errorf("%s is no segment of %d bytes", name, size)
	}
	return high*each + low, nil
}

// IsSegmentSize reports whether segments can be that long.
func IsSegmentSize(size int64) bool { return size >= 1<<20 && size <= 1<<30 && size&(size-1) == 0 }

// ParseLSN is an LSN's distance from the beginning of the log, in bytes.
func ParseLSN(s string) (int64, error) {
	high, low, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(high, 16, 31)
	l, err2 := strconv.ParseUint(low, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("%.64q is no LSN", s)
	}
	return int64(h<<32 | l), nil
}
