package winrmtest

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Who has not logged on is asked to, and nothing that was sent is looked at.
func TestStrangers(t *testing.T) {
	s := Start(t, &Options{User: "eva", Password: "pw", Basic: true, TLS: true}, func(context.Context, *Process) int { return 0 })
	for header, status := range map[string]int{"": 401, "Basic ZXZhOm5v": 401, "Basic ZXZhOnB3": 400, "Negotiate AAAA": 401} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/wsman", strings.NewReader("no message"))
		require.NoError(t, err)
		if header != "" {
			req.Header.Set("Authorization", header)
		}
		res, err := s.Client().Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, status, res.StatusCode, header)
	}
	require.Empty(t, s.Seen())
	require.Zero(t, s.Shells())
}
