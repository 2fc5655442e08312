"""Every flood is noticed.

watch     floods and troubles -> incidents -> notices
"""
