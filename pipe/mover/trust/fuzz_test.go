package trust

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A text that is a token is the text of that token.
func FuzzParseToken(f *testing.F) {
	text := Token{Server: Pin{1, 2, 3}, seed: [32]byte{4, 5, 6}}.String()
	for _, seed := range []string{text, text + "\n", text[:40], vectorToken, "hikae-token-1-", "", tokenPrefix + "aaaa\naaaa"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			require.ErrorIs(t, err, ErrToken)
			require.Zero(t, token)
			return
		}
		again, err := ParseToken(token.String())
		require.NoError(t, err)
		require.Equal(t, token, again)
		_, err = token.Identity()
		require.NoError(t, err)
	})
}

// Pages that are taken are written as they were read, and hold together. The input is what stands under the sum, which
// no mutation would get right.
func FuzzBook(f *testing.F) {
	p := &pages{}
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	f.Add("")
	for i, e := range []entry{
		{Name: "a", Role: Append, Pin: Pin{1}, Since: now, Expires: now.Add(time.Hour), Token: true},
		{Name: "b", Role: Full, Pin: Pin{2}, Next: Pin{3}, Host: "b.example", Since: now, Was: 1},
	} {
		_, err := p.add(e)
		require.NoError(f, err)
		p.bury("c", Pin{9, byte(i)}, wasRotated, now)
		data, err := encodePages(p)
		require.NoError(f, err)
		_, err = decodePages(data)
		require.NoError(f, err)
		f.Add(string(data[len(bookPrefix)+65:]))
	}
	f.Fuzz(func(t *testing.T, body string) {
		data := []byte(resum("\n" + body))
		p, err := decodePages(data)
		if err != nil {
			return
		}
		again, err := encodePages(p)
		require.NoError(t, err)
		require.Equal(t, data, again)
		b := &Book{now: func() time.Time { return now }}
		b.turnTo(p, nil, mark{})
		for _, e := range p.Peers {
			got, err := b.lookUp(e.Pin)
			if err == nil {
				require.Equal(t, e.Role, got.Role)
				require.Contains(t, []Role{Append, Full}, got.Role)
				require.NoError(t, CheckName(got.Name))
			}
		}
	})
}
