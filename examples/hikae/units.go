package main

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
)

// units are the factors of sizes. One letter alone is binary, as in most tools of this kind.
var units = []struct {
	name   string
	factor float64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"kbit", 1e3 / 8}, {"mbit", 1e6 / 8}, {"gbit", 1e9 / 8},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
	{"k", 1 << 10}, {"m", 1 << 20}, {"g", 1 << 30}, {"t", 1 << 40}, {"b", 1}, {"", 1},
}

// parseSize reads a number of bytes such as 256KiB, 1.5G or 4096. It is at least one.
func parseSize(s string) (int64, error) {
	low := strings.ToLower(strings.TrimSpace(s))
	i := slices.IndexFunc(units, func(u struct {
		name   string
		factor float64
	}) bool {
		return strings.HasSuffix(low, u.name)
	})
	number := strings.TrimSpace(strings.TrimSuffix(low, units[i].name))
	v, err := strconv.ParseFloat(number, 64)
	if v *= units[i].factor; err != nil || strings.ContainsAny(number, "xpeni_") || !(v >= 1) || v > math.MaxInt64/2 {
		return 0, outcome.Usage("Write it as 256KiB, 50MB or 4096.", "%q is not a size", s)
	}
	return int64(v), nil
}

// parseRate reads bytes in a second, such as 50MiB/s, 100Mbit/s or 20M.
func parseRate(s string) (int64, error) {
	rate, err := parseSize(strings.TrimSuffix(strings.TrimSpace(s), "/s"))
	if err != nil {
		return 0, outcome.Usage("Write it as 50MiB/s, 20MB/s or 100Mbit/s.", "--limit %q is not a rate", s)
	}
	return rate, nil
}
