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
$r=Invoke-Command -Session $s -ArgumentList (Text $n[2]),([long]$w[2]),([int]$w[3]),([long]$w[4]) {param($p,$at,$max,$most)
$ErrorActionPreference='Stop';$c=0;$b=New-Object byte[] 0;if(-not [IO.File]::Exists($p)){$c=18}else{
$f=[IO.File]::Open($p,[IO.FileMode]::Open,[IO.FileAccess]::Read,[IO.FileShare]::ReadWrite)
try{if($f.Length -gt $most){$c=19}else{$f.Position=$at;$b=New-Object byte[] ([Math]::Max(0,[Math]::Min($max,$f.Length-$at)));$g=0
while($g -lt $b.Length){$i=$f.Read($b,$g,$b.Length-$g);if($i -eq 0){break};$g+=$i}}}finally{$f.Close()}}
New-Object PSObject -Property @{c=$c;o=$b;e=(New-Object byte[] 0)}}
$h=[Text.Encoding]::ASCII.GetBytes("$($w[1]) $($r.c) $($r.o.Length) $($r.e.Length)`n")
$o=[Console]::OpenStandardOutput();$o.Write($h,0,$h.Length);$o.Write($r.o,0,$r.o.Length);$o.Flush()
$h=[Text.Encoding]::ASCII.GetBytes("$($w[1])`n")
$o=[Console]::OpenStandardError();$o.Write($h,0,$h.Length);$o.Write($r.e,0,$r.e.Length);$o.Flush()
}finally{Remove-PSSession $s};exit 0
