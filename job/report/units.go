package report

import (
	"fmt"
	"time"
)

// size is a number of bytes for people: three digits or four, and a binary unit.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), -1
	for v >= 1023.95 && unit < 5 {
		v /= 1024
		unit++
	}
	if v >= 99.95 {
		return fmt.Sprintf("%.0f %ciB", v, "KMGTPE"[unit])
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTPE"[unit])
}

// duration is a number of seconds for people.
func duration(s float64) string {
	switch {
	case s < 0.9995:
		return fmt.Sprintf("%.0f ms", s*1000)
	case s < 99.95:
		return fmt.Sprintf("%.1f s", s)
	case s < 359_999:
		d := time.Duration(s+0.5) * time.Second
		if d < time.Hour {
			return fmt.Sprintf("%d:%02d min", d/time.Minute, d/time.Second%60)
		}
		return fmt.Sprintf("%d:%02d h", d/time.Hour, d/time.Minute%60)
	}
	return fmt.Sprintf("%.0f h", s/3600)
}

func percent(share float64) string { return fmt.Sprintf("%.0f %%", share*100) }

// ratio is how many times a is b; a dash where that says nothing.
func ratio(a, b int64) string {
	if a <= 0 || b <= 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f×", float64(a)/float64(b))
}

func rate(n int64, seconds float64) string {
	if n <= 0 || seconds <= 0 {
		return "–"
	}
	return size(int64(float64(n)/seconds)) + "/s"
}

func part(a, b int64) float64 {
	if b <= 0 {
		return 0
	}
	return float64(a) / float64(b)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.Format("2006-01-02 15:04:05 MST")
}
