$ErrorActionPreference='Stop';$ProgressPreference='SilentlyContinue';$w=@([Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('NmQxZjJjOGUtMGIxYS00YTU1LTlhMGUtM2YyYjZjN2Q4ZTlm')),[Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('bWFyaw==')),[Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('MQ==')),[Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('Mg==')),[Text.Encoding]::UTF8.GetString([Convert]::FromBase64String('Mw==')));$n=@($input);function Text($b){[Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($b))}
function Fail($c,$t){[Console]::Error.Write("$($w[1]) $t");exit $c}
if($PSVersionTable.PSVersion.Major -lt 5){Fail 31 $PSVersionTable.PSVersion}
if([Environment]::OSVersion.Version.Major -lt 10){Fail 32 ([Environment]::OSVersion.Version)}
if(-not (Get-Command Get-VM -ErrorAction SilentlyContinue)){Fail 33 'Get-VM'}
$v=Get-VM -Id $w[0] -ErrorAction SilentlyContinue;if(-not $v){Fail 34 $w[0]}
if("$($v.State)" -ne 'Running'){Fail 35 $v.State}
$q=New-Object Security.SecureString;foreach($x in [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($n[1])).ToCharArray()){$q.AppendChar($x)};$x=$null
try{$s=New-PSSession -VMId $w[0] -Credential (New-Object Management.Automation.PSCredential((Text $n[0]),$q))}catch{Fail 36 $_.Exception.Message}
try{$g=Invoke-Command -Session $s {"$([Environment]::OSVersion.Version)"};if(([Version]$g).Major -lt 10){Fail 37 $g}
$r=Invoke-Command -Session $s -ArgumentList (Text $n[2]),(Text $n[3]),([long]$w[2]),([Convert]::FromBase64String("$($n[4])")) {param($f,$l,$d,[byte[]]$in)
$ErrorActionPreference='Stop';if($in -eq $null){$in=New-Object byte[] 0}
$i=New-Object Diagnostics.ProcessStartInfo;$i.FileName=$f;$i.Arguments=$l;$i.UseShellExecute=$false;$i.CreateNoWindow=$true
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
New-Object PSObject -Property @{c=$p.ExitCode;o=$k[0].ToArray();e=$k[1].ToArray()}}
$h=[Text.Encoding]::ASCII.GetBytes("$($w[1]) $($r.c) $($r.o.Length) $($r.e.Length)`n")
$o=[Console]::OpenStandardOutput();$o.Write($h,0,$h.Length);$o.Write($r.o,0,$r.o.Length);$o.Flush()
$h=[Text.Encoding]::ASCII.GetBytes("$($w[1])`n")
$o=[Console]::OpenStandardError();$o.Write($h,0,$h.Length);$o.Write($r.e,0,$r.e.Length);$o.Flush()
}finally{Remove-PSSession $s};exit 0
