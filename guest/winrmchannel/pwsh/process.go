package pwsh

// Process is a piece of script that runs a program: $f is its file, $l its command line, $in the bytes that it reads, $d the
// milliseconds that it has; then it is killed. It leaves $k[0] and $k[1], what the program printed of each stream (at most 1 MiB and one byte, and the rest is thrown away so
// that the program never waits for us), and $p, the process, which has ended. Both streams are read and the input is written
// at the same time: a program that fills one pipe while we wait for another would wait for ever.
const Process = `$i=New-Object Diagnostics.ProcessStartInfo;$i.FileName=$f;$i.Arguments=$l;$i.UseShellExecute=$false;$i.CreateNoWindow=$true
$i.RedirectStandardInput=$true;$i.RedirectStandardOutput=$true;$i.RedirectStandardError=$true
$q=[Diagnostics.Stopwatch]::StartNew();$p=[Diagnostics.Process]::Start($i)
$s=@($p.StandardOutput.BaseStream,$p.StandardError.BaseStream)
$b=@((New-Object byte[] 65536),(New-Object byte[] 65536))
$k=@((New-Object IO.MemoryStream),(New-Object IO.MemoryStream))
$t=@($s[0].ReadAsync($b[0],0,65536),$s[1].ReadAsync($b[1],0,65536),$p.StandardInput.BaseStream.WriteAsync($in,0,$in.Length))
while($t[0] -or $t[1]){
$r=[Math]::Max(0,$d-$q.ElapsedMilliseconds)
if([Threading.Tasks.Task]::WaitAny([Threading.Tasks.Task[]]@($t|Where-Object{$_}),[int]$r) -lt 0){try{$p.Kill()}catch{};throw 'the program did not end in time'}
if($t[2] -and $t[2].IsCompleted){$t[2]=$null;try{$p.StandardInput.Close()}catch{}}
foreach($j in 0,1){if($t[$j] -and $t[$j].IsCompleted){$n=$t[$j].Result
if($n -eq 0){$t[$j]=$null}else{$r=1048577-$k[$j].Length
if($r -gt 0){$k[$j].Write($b[$j],0,[Math]::Min($n,$r))}
$t[$j]=$s[$j].ReadAsync($b[$j],0,65536)}}}}
$p.WaitForExit()
`
