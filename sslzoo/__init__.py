"""sslzoo"""
