#ps1_sysnative
Set-Content C:\ran.txt "größe"
