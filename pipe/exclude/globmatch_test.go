package exclude

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFits(t *testing.T) {
	for _, c := range []struct {
		globs  string
		name   string
		folded bool
		want   bool
	}{
		{globs: "*.conf", name: "etc/ssh/sshd.conf", want: true},
		{globs: "*.conf", name: "etc/ssh/sshd.CONF"},
		{globs: "*.conf", name: "etc/ssh/sshd.CONF", folded: true, want: true},
		{globs: "/etc", name: "etc/passwd", want: true},
		{globs: "/etc", name: "usr/etc/passwd"},
		{globs: "**/log/*.gz", name: "var/log/a.gz", want: true},
		{globs: "**/log/*.gz", name: "var/log/deep/a.gz"},
		{globs: "**/log/**", name: "var/log/deep/a.gz", want: true},
	} {
		g, err := ParseGlobs([]string{c.globs})
		require.NoError(t, err)
		require.Equal(t, c.want, g.Fits(c.name, c.folded), "%+v", c)
	}
	g, err := ParseGlobs([]string{"/etc", "!*.key", "data::tmp"})
	require.NoError(t, err)
	require.True(t, g.Fits("etc/passwd", false))
	require.False(t, g.Fits("etc/ssl/a.key", false), "what is kept stays, whatever the order")
	require.False(t, g.Fits("tmp/x", false), "it is for one volume")
}
