package psdirect

import "github.com/hikae/hikae/guest/winrmchannel/pwsh"

// Exit codes of our scripts, apart from PowerShell's own.
const (
	exitExists     = 17
	exitNone       = 18
	exitLong       = 19
	exitDiffers    = 20
	exitPowerShell = 31
	exitHost       = 32
	exitNoHyperV   = 33
	exitNoMachine  = 34
	exitState      = 35
	exitSession    = 36
	exitGuest      = 37
)

// connect reads what was handed over ($input gives its lines, each base64: $n[0] the user, $n[1] the password, then what the
// call needs) and makes the session $s. $w[0] is the machine's id, $w[1] a mark that is put before what we say, so that it is
// told from what PowerShell says. The password goes through no pipeline and no command, whose arguments a host may log
// (event 4103).
const connect = `$n=@($input);function Text($b){[Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($b))}
function Fail($c,$t){[Console]::Error.Write("$($w[1]) $t");exit $c}
if($PSVersionTable.PSVersion.Major -lt 5){Fail 31 $PSVersionTable.PSVersion}
if([Environment]::OSVersion.Version.Major -lt 10){Fail 32 ([Environment]::OSVersion.Version)}
if(-not (Get-Command Get-VM -ErrorAction SilentlyContinue)){Fail 33 'Get-VM'}
$v=Get-VM -Id $w[0] -ErrorAction SilentlyContinue;if(-not $v){Fail 34 $w[0]}
if("$($v.State)" -ne 'Running'){Fail 35 $v.State}
$q=New-Object Security.SecureString;foreach($x in [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($n[1])).ToCharArray()){$q.AppendChar($x)};$x=$null
try{$s=New-PSSession -VMId $w[0] -Credential (New-Object Management.Automation.PSCredential((Text $n[0]),$q))}catch{Fail 36 $_.Exception.Message}
try{$g=Invoke-Command -Session $s {"$([Environment]::OSVersion.Version)"};if(([Version]$g).Major -lt 10){Fail 37 $g}
`

// finish writes what a program in the guest has left, $r: how it ended, and its streams as they are.
const finish = `
$h=[Text.Encoding]::ASCII.GetBytes("$($w[1]) $($r.c) $($r.o.Length) $($r.e.Length)` + "`n" + `")
$o=[Console]::OpenStandardOutput();$o.Write($h,0,$h.Length);$o.Write($r.o,0,$r.o.Length);$o.Flush()
$h=[Text.Encoding]::ASCII.GetBytes("$($w[1])` + "`n" + `")
$o=[Console]::OpenStandardError();$o.Write($h,0,$h.Length);$o.Write($r.e,0,$r.e.Length);$o.Flush()
}finally{Remove-PSSession $s};exit 0`

// runScript runs a program in the guest: $n[2] is its file, $n[3] its command line, $n[4] its input, $w[2] the milliseconds it
// has.
const runScript = connect + `$r=Invoke-Command -Session $s -ArgumentList (Text $n[2]),(Text $n[3]),([long]$w[2]),([Convert]::FromBase64String("$($n[4])")) {param($f,$l,$d,[byte[]]$in)
$ErrorActionPreference='Stop';if($in -eq $null){$in=New-Object byte[] 0}
` + pwsh.Process + `New-Object PSObject -Property @{c=$p.ExitCode;o=$k[0].ToArray();e=$k[1].ToArray()}}` + finish

// uploadScript writes a file in the guest that is not there: $n[2] is its path, $n[3] its SHA-256, the lines after it are its
// bytes, compressed. They gather in the session's memory and are in the guest's file only whole.
const uploadScript = connect + `Invoke-Command -Session $s {$global:hikae=New-Object IO.MemoryStream}
$n[4..($n.Count-1)]|ForEach-Object{Invoke-Command -Session $s -ArgumentList (,[Convert]::FromBase64String($_)) {param([byte[]]$b)$global:hikae.Write($b,0,$b.Length)}}
$c=Invoke-Command -Session $s -ArgumentList (Text $n[2]),(Text $n[3]) {param($p,$sum)
$ErrorActionPreference='Stop';$m=$global:hikae;$m.Position=0;if([IO.File]::Exists($p) -or [IO.Directory]::Exists($p)){return 17}
$f=New-Object IO.FileStream($p,[IO.FileMode]::CreateNew,[IO.FileAccess]::ReadWrite,[IO.FileShare]::None);$ok=$false
try{$z=New-Object IO.Compression.GZipStream($m,[IO.Compression.CompressionMode]::Decompress);$z.CopyTo($f);$f.Flush($true);$f.Position=0
$ok=[BitConverter]::ToString([Security.Cryptography.SHA256]::Create().ComputeHash($f)).Replace('-','').ToLower() -eq $sum
}finally{$f.Close();if(-not $ok){[IO.File]::Delete($p)}}
if($ok){0}else{20}}
$r=@{c=$c;o=(New-Object byte[] 0);e=(New-Object byte[] 0)}` + finish

// downloadScript reads a piece of a file: $n[2] is its path, $w[2] the offset, $w[3] how much, $w[4] the most that the file may
// have.
const downloadScript = connect + `$r=Invoke-Command -Session $s -ArgumentList (Text $n[2]),([long]$w[2]),([int]$w[3]),([long]$w[4]) {param($p,$at,$max,$most)
$ErrorActionPreference='Stop';$c=0;$b=New-Object byte[] 0;if(-not [IO.File]::Exists($p)){$c=18}else{
$f=[IO.File]::Open($p,[IO.FileMode]::Open,[IO.FileAccess]::Read,[IO.FileShare]::ReadWrite)
try{if($f.Length -gt $most){$c=19}else{$f.Position=$at;$b=New-Object byte[] ([Math]::Max(0,[Math]::Min($max,$f.Length-$at)));$g=0
while($g -lt $b.Length){$i=$f.Read($b,$g,$b.Length-$g);if($i -eq 0){break};$g+=$i}}}finally{$f.Close()}}
New-Object PSObject -Property @{c=$c;o=$b;e=(New-Object byte[] 0)}}` + finish
