package winrmchannel

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/winrmchannel/pwsh"
)

const (
	maxUpload   = 64 << 20
	maxDownload = 64 << 20
	lineBytes   = 48 << 10 // of packed data in one line of input
)

// Exit codes of our scripts, apart from PowerShell's own.
const (
	exitExists  = 17
	exitNone    = 18
	exitLong    = 19
	exitDiffers = 20
)

// uploadScript reads lines of base64 from its input: PowerShell itself reads that, and bytes would not get through. $w[0] is
// the file, which must not be there, $w[1] its SHA-256. What it could not bring whole it takes away again.
const uploadScript = `$m=New-Object IO.MemoryStream;foreach($x in $input){$b=[Convert]::FromBase64String($x);$m.Write($b,0,$b.Length)}
$m.Position=0;if([IO.File]::Exists($w[0]) -or [IO.Directory]::Exists($w[0])){exit 17}
$f=New-Object IO.FileStream($w[0],[IO.FileMode]::CreateNew,[IO.FileAccess]::ReadWrite,[IO.FileShare]::None);$ok=$false
try{$z=New-Object IO.Compression.GZipStream($m,[IO.Compression.CompressionMode]::Decompress);$z.CopyTo($f);$f.Flush($true);$f.Position=0
$h=[BitConverter]::ToString([Security.Cryptography.SHA256]::Create().ComputeHash($f)).Replace('-','').ToLower();$ok=$h -eq $w[1]
}finally{$f.Close();if(-not $ok){[IO.File]::Delete($w[0])}}
if(-not $ok){exit 20};exit 0`

// downloadScript writes the file $w[0] as it is. More than $w[1] bytes it does not begin.
const downloadScript = `if(-not [IO.File]::Exists($w[0])){exit 18}
$f=[IO.File]::Open($w[0],[IO.FileMode]::Open,[IO.FileAccess]::Read,[IO.FileShare]::ReadWrite)
try{if($f.Length -gt [long]$w[1]){exit 19};$o=[Console]::OpenStandardOutput();$f.CopyTo($o);$o.Flush()}finally{$f.Close()};exit 0`

// Upload implements [hikae.GuestChannel]. A file that is there already is fs.ErrExist. Its rights are those of its folder.
func (l *link) Upload(ctx context.Context, path string, data []byte, _ uint32) error {
	err := l.upload(ctx, path, data)
	if err != nil {
		return fmt.Errorf("upload %s: %w", guest.Printable(path, 300), err)
	}
	return nil
}

func (l *link) upload(ctx context.Context, path string, data []byte) error {
	if err := fit(path, nil); err != nil {
		return err
	}
	if len(data) > maxUpload {
		return fmt.Errorf("%d bytes, at most %d", len(data), maxUpload)
	}
	sum := sha256.Sum256(data)
	args, err := pwsh.Args(uploadScript, path, hex.EncodeToString(sum[:]))
	if err != nil {
		return err
	}
	r, err := l.run(ctx, pwsh.Path, args, packed(data), maxStream)
	return ended(r, err)
}

// packed makes lines of base64 out of compressed data. An empty file too has a line.
func packed(data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(data)
	z.Close()
	var lines []byte
	for rest := b.Bytes(); len(rest) > 0; {
		n := min(len(rest), lineBytes)
		lines = base64.StdEncoding.AppendEncode(lines, rest[:n])
		lines = append(lines, '\r', '\n')
		rest = rest[n:]
	}
	return lines
}

// Download implements [hikae.GuestChannel].
func (l *link) Download(ctx context.Context, path string, max int64) ([]byte, error) {
	b, err := l.download(ctx, path, max)
	if err != nil {
		return nil, fmt.Errorf("download %s: %w", guest.Printable(path, 300), err)
	}
	return b, nil
}

func clamp(n, least, most int64) int64 { return min(max(n, least), most) }

var errLong = errors.New("the file is longer than allowed")

func (l *link) download(ctx context.Context, path string, max int64) ([]byte, error) {
	if err := fit(path, nil); err != nil {
		return nil, err
	}
	max = clamp(max, 0, maxDownload)
	args, err := pwsh.Args(downloadScript, path, strconv.FormatInt(max, 10))
	if err != nil {
		return nil, err
	}
	r, err := l.run(ctx, pwsh.Path, args, nil, int(max))
	if err = ended(r, err); err != nil {
		return nil, err
	}
	if r.Truncated { // it grew
		return nil, errLong
	}
	return r.Stdout, nil
}

// ended makes an error of how one of our scripts ended.
func ended(r hikae.RunResult, err error) error {
	switch {
	case err != nil:
		return err
	case r.ExitCode == 0:
		return nil
	case r.ExitCode == exitExists:
		return fs.ErrExist
	case r.ExitCode == exitNone:
		return fs.ErrNotExist
	case r.ExitCode == exitLong:
		return errLong
	case r.ExitCode == exitDiffers:
		return errors.New("what arrived is not what was sent")
	}
	return fmt.Errorf("exit code %d: %s", r.ExitCode, guest.Printable(string(r.Stderr), 300))
}
