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
Invoke-Command -Session $s {$global:hikae=New-Object IO.MemoryStream}
$n[4..($n.Count-1)]|ForEach-Object{Invoke-Command -Session $s -ArgumentList (,[Convert]::FromBase64String($_)) {param([byte[]]$b)$global:hikae.Write($b,0,$b.Length)}}
$c=Invoke-Command -Session $s -ArgumentList (Text $n[2]),(Text $n[3]) {param($p,$sum)
$ErrorActionPreference='Stop';$m=$global:hikae;$m.Position=0;if([IO.File]::Exists($p) -or [IO.Directory]::Exists($p)){return 17}
$f=New-Object IO.FileStream($p,[IO.FileMode]::CreateNew,[IO.FileAccess]::ReadWrite,[IO.FileShare]::None);$ok=$false
try{$z=New-Object IO.Compression.GZipStream($m,[IO.Compression.CompressionMode]::Decompress);$z.CopyTo($f);$f.Flush($true);$f.Position=0
$ok=[BitConverter]::ToString([Security.Cryptography.SHA256]::Create().ComputeHash($f)).Replace('-','').ToLower() -eq $sum
}finally{$f.Close();if(-not $ok){[IO.File]::Delete($p)}}
if($ok){0}else{20}}
$r=@{c=$c;o=(New-Object byte[] 0);e=(New-Object byte[] 0)}
$h=[Text.Encoding]::ASCII.GetBytes("$($w[1]) $($r.c) $($r.o.Length) $($r.e.Length)`n")
$o=[Console]::OpenStandardOutput();$o.Write($h,0,$h.Length);$o.Write($r.o,0,$r.o.Length);$o.Flush()
$h=[Text.Encoding]::ASCII.GetBytes("$($w[1])`n")
$o=[Console]::OpenStandardError();$o.Write($h,0,$h.Length);$o.Write($r.e,0,$r.e.Length);$o.Flush()
}finally{Remove-PSSession $s};exit 0
