package guest

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"

	"github.com/hikae/hikae"
)

// powershellPath is where every Windows since 7 has it. A name alone would be looked up in folders that others may write.
const powershellPath = `C:\Windows\System32\WindowsPowerShell\v1.0\powershell.exe`

// runner is what a script needs of a channel.
type runner interface {
	Run(ctx context.Context, path string, args []string, stdin []byte) (hikae.RunResult, error)
}

// powershell runs a script. Its words arrive as $w[0], $w[1] …: encoded, so that nothing in them is ever part of a script.
func powershell(ctx context.Context, r runner, script string, words ...string) (hikae.RunResult, error) {
	var b strings.Builder
	b.WriteString("$ErrorActionPreference='Stop';$ProgressPreference='SilentlyContinue';$w=@(")
	for i, word := range words {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "[Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('%s'))", base64.StdEncoding.EncodeToString([]byte(word)))
	}
	b.WriteString(");" + script)
	units := utf16.Encode([]rune(b.String()))
	coded := make([]byte, 0, 2*len(units))
	for _, u := range units {
		coded = binary.LittleEndian.AppendUint16(coded, u)
	}
	return r.Run(ctx, powershellPath, []string{"-NoProfile", "-NonInteractive", "-EncodedCommand",
		base64.StdEncoding.EncodeToString(coded)}, nil)
}

const probeWindows = `$o=[Console]::Out;$m=$w[0];$o.Write("` + "`n" + `$m begin` + "`n" + `");
$a=$env:PROCESSOR_ARCHITEW6432;if(-not $a){$a=$env:PROCESSOR_ARCHITECTURE}
$i=[Security.Principal.WindowsIdentity]::GetCurrent();
$r=(New-Object Security.Principal.WindowsPrincipal $i).IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator);
$o.Write("os=windows` + "`n" + `arch=$a` + "`n" + `host=$env:COMPUTERNAME` + "`n" + `user=$($i.Name)` + "`n" + `admin=$r` + "`n" + `");
$w[1..99]+"$env:SystemRoot\Temp"|Where-Object{$_ -and (Test-Path -LiteralPath $_ -PathType Container)}|ForEach-Object{$o.Write("temp=$_` + "`n" + `")};
$o.Write("$m end` + "`n" + `")`

// The folder is made with its rights, so that there is no moment in which others may enter.
const makeDirWindows = `$p=$w[0];if(Test-Path -LiteralPath $p){exit 17}
$s=New-Object Security.AccessControl.DirectorySecurity;
$s.SetSecurityDescriptorSddlForm('O:BAG:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)');
[void][IO.Directory]::CreateDirectory($p,$s);
if(@([IO.Directory]::GetFileSystemEntries($p)).Count -ne 0){exit 18}`

// A program that has just ended holds its file for a moment more.
const removeWindows = `$p=$w[0];for($i=0;;$i++){try{
if([IO.Directory]::Exists($p)){[IO.Directory]::Delete($p,$true)}elseif([IO.File]::Exists($p)){[IO.File]::Delete($p)};break
}catch{if($i -ge 20){throw};Start-Sleep -Milliseconds 100}}`

const appendWindows = `$b=[IO.File]::ReadAllBytes($w[1]);$f=[IO.File]::Open($w[0],'Append');
try{$f.Write($b,0,$b.Length)}finally{$f.Close()};[IO.File]::Delete($w[1])`

func (o *over) probeWindows(ctx context.Context, mark string, opts *OverOptions) (hikae.RunResult, error) {
	return powershell(ctx, o, probeWindows, append([]string{mark}, opts.Temp...)...)
}
