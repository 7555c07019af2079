package report

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// browser opens a page without a window, in a profile of its own and without a network to reach.
func browser(t *testing.T, page string, args ...string) []byte {
	t.Helper()
	program := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			program = path
			break
		}
	}
	if program == "" {
		t.Skip("chromium is not installed")
	}
	file := filepath.Join(t.TempDir(), "page.html")
	require.NoError(t, os.WriteFile(file, []byte(page), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	all := append([]string{"--headless=new", "--disable-gpu", "--no-sandbox", "--hide-scrollbars", "--disable-dev-shm-usage", "--no-first-run",
		"--host-resolver-rules=MAP * ~NOTFOUND", "--user-data-dir=" + t.TempDir(), "--virtual-time-budget=3000"}, args...)
	cmd := exec.CommandContext(ctx, program, append(all, "file://"+file)...)
	cmd.WaitDelay = 5 * time.Second
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	require.NoError(t, err, said.String())
	return out.Bytes()
}

// probe is a script that measures the page as the browser laid it out, and says what it found as the page's title.
const probe = `<script>
addEventListener("load", () => {
  const wide = [...document.querySelectorAll("main *")].filter(e => !e.closest(".scroll") && !e.closest("svg") && e.getBoundingClientRect().right > innerWidth + 1);
  const lum = c => { const v = c.match(/[\d.]+/g).slice(0, 3).map(x => x / 255).map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4); return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\)$/.test(c) && c != "transparent") return c; } return "rgb(255,255,255)"; };
  let faint = 99;
  for (const e of document.querySelectorAll("h1,h2,small,dt,dd,td,th,p,li,.badge,footer")) {
    if (!e.textContent.trim() || e.closest("svg")) continue;
    const a = lum(getComputedStyle(e).color), b = lum(ground(e));
    faint = Math.min(faint, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  const loaded = performance.getEntriesByType("resource").length;
  document.title = "wide=" + wide.length + " faint=" + faint.toFixed(2) + " loaded=" + loaded + " height=" + (document.body.scrollHeight > 300);
});
</script>`

// The pages as a browser shows them, light, dark, narrow and on paper: nothing sticks out, every text can be read (WCAG 2.1 AA asks for a
// contrast of 4.5), nothing is loaded, and something is there.
func TestInABrowser(t *testing.T) {
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
		t.Skip("the long tier looks at the pages in a browser")
	}
	for name, r := range pages(t) {
		for _, how := range []struct {
			name string
			args []string
		}{
			{"light", []string{"--window-size=1200,1000"}},
			{"dark", []string{"--window-size=1200,1000", "--force-dark-mode", "--blink-settings=preferredColorScheme=0"}},
			{"narrow", []string{"--window-size=500,900"}},
		} {
			t.Run(name+"/"+how.name, func(t *testing.T) {
				// The policy of the page keeps scripts out, ours too.
				open := strings.Replace(r, "default-src 'none'; style-src", "default-src 'none'; script-src 'unsafe-inline'; style-src", 1)
				dom := string(browser(t, strings.Replace(open, "</body>", probe+"</body>", 1), append(how.args, "--dump-dom")...))
				_, title, _ := strings.Cut(dom, "<title>")
				title, _, _ = strings.Cut(title, "</title>")
				var wide, loaded int
				var faint float64
				var high bool
				_, err := fmt.Sscanf(title, "wide=%d faint=%f loaded=%d height=%t", &wide, &faint, &loaded, &high)
				require.NoError(t, err, title)
				require.Zero(t, wide, "elements that stick out")
				require.GreaterOrEqual(t, faint, 4.5)
				require.Zero(t, loaded)
				require.True(t, high)

				shot := filepath.Join(t.TempDir(), "shot.png")
				browser(t, r, append(how.args, "--screenshot="+shot)...)
				img := picture(t, shot)
				require.Greater(t, colours(img), 12, "a page with nothing on it")
				keep(t, shot, name+"-"+how.name+".png")
				if how.name != "narrow" {
					require.Equal(t, how.name == "dark", dark(img), "the colours follow the reader's system")
				}
			})
		}
		t.Run(name+"/paper", func(t *testing.T) {
			sheet := filepath.Join(t.TempDir(), "page.pdf")
			browser(t, r, "--no-pdf-header-footer", "--print-to-pdf="+sheet)
			b, err := os.ReadFile(sheet)
			require.NoError(t, err)
			require.True(t, bytes.HasPrefix(b, []byte("%PDF-")))
			require.Greater(t, len(b), 10_000)
			keep(t, sheet, name+".pdf")
		})
	}
}

// pages are those that are looked at.
func pages(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for name, r := range reports() {
		out[name] = page_(t, r)
	}
	for name, j := range jobs() {
		out[name] = jobPage_(t, j)
	}
	return out
}

// keep puts a picture where a person can look at it.
func keep(t *testing.T, path, name string) {
	t.Helper()
	if dir := os.Getenv("HIKAE_TEST_REPORT_DIR"); dir != "" {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
}

func picture(t *testing.T, path string) image.Image {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	img, err := png.Decode(f)
	require.NoError(t, err)
	return img
}

func colours(img image.Image) int {
	seen := map[[3]uint32]bool{}
	b := img.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y += 3 {
		for x := b.Min.X; x < b.Max.X; x += 3 {
			r, g, b, _ := img.At(x, y).RGBA()
			seen[[3]uint32{r, g, b}] = true
		}
	}
	return len(seen)
}

// dark looks at the ground in a corner.
func dark(img image.Image) bool {
	r, g, b, _ := img.At(3, 3).RGBA()
	return r+g+b < 3*0x8000
}
